"""Reading and writing encoder weights: our safetensors files and the published `.pth` layouts, never by unsafe pickle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cdgmae.models.video_checkpoints import is_video_state, picture_state
from cdgmae.models.vit import build_vit
from cdgmae.settings.encoder import VitSettings
from cdgmae.storage.atomic import write_bytes

ENCODER_PREFIXES = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
HEADER_KEY = "cdgmae"
"""The one entry of a file's header: facts as sorted JSON, so that equal weights and facts give an equal file."""

ARCHITECTURE_KEY = "vit"
HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message lists matched, missing and unexpected keys."""


def encoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's entries of a cross-view MAE state dict; the decoder's are left out."""
    return {key: tensor for key, tensor in state.items() if key.startswith(ENCODER_PREFIXES)}


def write_encoder(path: Path, state: Mapping[str, Tensor], architecture: VitSettings, facts: Mapping[str, str]) -> None:
    """Write `encoder.safetensors`: a timm-loadable ViT state dict, its dimensions and provenance in the header."""
    write_model(path, encoder_part(state), {ARCHITECTURE_KEY: architecture.canonical_json(), **facts})


def write_model(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write a safetensors file of the whole state dict under the published names, facts in the header."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    write_bytes(path, save(tensors, metadata={HEADER_KEY: json.dumps(dict(facts), sort_keys=True)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict of a checkpoint file and the facts in its header.

    `.safetensors` are read as they are. Other files are read as torch checkpoints with `weights_only=True` (the argument
    namespace inside CropMAE's files is allowed, nothing else is); a state dict under `model`, `state_dict`, `teacher` or
    `student` is found, and a `module.`, `backbone.` or `encoder.` prefix removed.

    Raises:
        CheckpointError: if the file is truncated, no checkpoint, or would need unsafe unpickling.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                facts: dict[str, str] = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
                return {key: file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error})") from None
    except Exception as error:  # weights_only refuses foreign classes with an UnpicklingError
        raise CheckpointError(
            f"{path} cannot be loaded safely ({type(error).__name__}: {error}); convert it to safetensors"
        ) from None
    for name in ("model", "state_dict", "teacher", "student"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} holds no state dict (looked at the top level and under model, state_dict, teacher, student)"
        )
    return {_strip(str(key)): tensor for key, tensor in content.items()}, {}


def load_encoder_file(path: Path) -> VisionTransformer:
    """A timm ViT with the encoder weights of a checkpoint file, matched strictly; VideoMAE's become a picture encoder.

    Raises:
        CheckpointError: if keys are missing or have other shapes, with the key report.
    """
    state, facts = read_checkpoint(path)
    encoder = encoder_part(picture_state(state) if is_video_state(state) else state)
    missing_anchors = {"pos_embed", "patch_embed.proj.weight", "norm.weight"} - set(encoder)
    if missing_anchors:
        raise CheckpointError(f"{path} holds no ViT encoder: missing {sorted(missing_anchors)}; found e.g. {sorted(state)[:5]}")
    architecture = (
        VitSettings.model_validate_json(facts[ARCHITECTURE_KEY]) if ARCHITECTURE_KEY in facts else _infer(path, encoder)
    )
    vit = build_vit(architecture, class_token="cls_token" in encoder)
    compare_states(str(path), vit.state_dict(), encoder)
    vit.load_state_dict(encoder, strict=True)
    return vit


def compare_states(origin: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not match an architecture key by key and shape by shape.

    Raises:
        CheckpointError: with the number of matched keys and the missing, unexpected and reshaped ones.
    """
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    common = sorted(set(expected) & set(found))
    reshaped = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in common
        if expected[key].shape != found[key].shape
    ]
    if missing or unexpected or reshaped:
        raise CheckpointError(
            f"{origin} does not match its architecture: {len(common) - len(reshaped)} keys matched, missing {missing[:8]}, "
            f"unexpected {unexpected[:8]}, other shapes {reshaped[:8]}. Give TIMM_NAME@FILE for weights of another timm architecture"
        )


def _strip(key: str) -> str:
    for prefix in ("module.", "backbone.", "encoder."):
        key = key.removeprefix(prefix)
    return key


def _infer(path: Path, encoder: Mapping[str, Tensor]) -> VitSettings:
    """Dimensions of a published ViT from its tensors; the number of heads follows from the standard widths."""
    embed_dim, _, patch_size, _ = encoder["patch_embed.proj.weight"].shape
    grid = round((encoder["pos_embed"].shape[1] - int("cls_token" in encoder)) ** 0.5)
    depth = 1 + max(int(key.split(".")[1]) for key in encoder if key.startswith("blocks."))
    if embed_dim not in HEADS_BY_WIDTH:
        raise CheckpointError(
            f"{path}: width {embed_dim} is not a standard ViT's, so its number of heads is unknown; give an encoder.safetensors"
        )
    return VitSettings(
        image_size=grid * patch_size, patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=HEADS_BY_WIDTH[embed_dim]
    )
