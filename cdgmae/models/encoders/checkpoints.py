"""Reading and writing encoder weights: our safetensors files and the published `.pth` layouts, never by unsafe pickle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cdgmae.models.encoders.video_checkpoints import image_state, is_video_state
from cdgmae.models.vit import build_vit
from cdgmae.settings.encoder import VitSettings
from cdgmae.storage.files.atomic import write_bytes

ENCODER_PREFIXES = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
LEFT_OUT_PREFIXES = ("decoder_", "mask_token", "head", "projector.", "predictor.")
"""What a file may hold beside the encoder and an encoder does without: decoders and training heads. Anything else, such as
register tokens, would change the encoder's output and is refused."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")
"""Put before every key by data-parallel training, the compiler, and DINO."""

HEADER_KEY = "cdgmae"
"""The one entry of a file's header: facts as sorted JSON, so that equal weights and facts give an equal file."""

ARCHITECTURE_KEY = "vit"
HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


LISTED_KEYS = 8
"""Keys of one kind that a message lists before it only counts them."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message lists matched, missing and unexpected keys."""


@dataclass(frozen=True, slots=True)
class KeyReport:
    """How the keys of a file fit those of a model; all sorted.

    Attributes:
        matched: In both, with equal shapes.
        missing: The model needs them and the file does not have them.
        unexpected: The file has them and the model has no place for them.
        reshaped: In both with different shapes, as `key (found) instead of (expected)`.
        left_out: In the file and not asked for: decoder and training heads where only the encoder is read.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every key found its place."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "other shapes": self.reshaped, "left out": self.left_out}
        return f"{len(self.matched)} keys matched, " + ", ".join(
            f"{name} {_listed(keys)}" for name, keys in kinds.items() if keys
        )


def compare_keys(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, may_be_left_out: tuple[str, ...] = ()
) -> KeyReport:
    """Compare the keys and shapes of a file's state dict with a model's.

    Args:
        found: State dict of the file.
        expected: State dict of the model, or the part of it that is asked for.
        may_be_left_out: Prefixes of keys that the model does without.
    """
    extra = sorted(found.keys() - expected.keys())
    common = sorted(found.keys() & expected.keys())
    equal = [key for key in common if found[key].shape == expected[key].shape]
    left_out = [key for key in extra if key.startswith(may_be_left_out)] if may_be_left_out else []
    return KeyReport(
        matched=tuple(equal),
        missing=tuple(sorted(expected.keys() - found.keys())),
        unexpected=tuple(key for key in extra if key not in left_out),
        reshaped=tuple(
            f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}" for key in common if key not in equal
        ),
        left_out=tuple(left_out),
    )


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
    `student` is found. Prefixes of wrappers (`module.`, `backbone.`, ...) are removed from the keys.

    Raises:
        CheckpointError: if the file is truncated, no checkpoint, or would need unsafe unpickling.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                facts: dict[str, str] = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
                return {_strip(key): file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error}); it is truncated or of another kind: "
            "copy it again, or give a .safetensors or .pth file"
        ) from None
    except Exception as error:  # weights_only refuses foreign classes with an UnpicklingError
        raise CheckpointError(
            f"{path} cannot be loaded safely ({type(error).__name__}: {error}); convert it to safetensors"
        ) from None
    return _find_state(path, content), {}


def _find_state(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict inside a torch checkpoint."""
    for name in ("model", "state_dict", "teacher", "student"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        found = f"; found {_listed(tuple(map(str, content)))}" if isinstance(content, dict) else ""
        raise CheckpointError(
            f"{path} holds no state dict (looked at the top level and under model, state_dict, teacher, student){found}"
        )
    return {_strip(str(key)): tensor for key, tensor in content.items()}


def load_encoder_file(path: Path) -> VisionTransformer:
    """A timm ViT with the encoder weights of a checkpoint file, matched strictly; VideoMAE's become an image encoder.

    Raises:
        CheckpointError: if keys are missing or have other shapes, with the key report.
    """
    state, facts = read_checkpoint(path)
    encoder = encoder_part(image_state(state) if is_video_state(state) else state)
    absent = {"pos_embed", "patch_embed.proj.weight", "norm.weight"} - set(encoder)
    if absent:
        raise CheckpointError(f"{path} holds no ViT encoder: missing {sorted(absent)}; found {_listed(tuple(sorted(state)))}")
    architecture = (
        VitSettings.model_validate_json(facts[ARCHITECTURE_KEY]) if ARCHITECTURE_KEY in facts else _infer(path, encoder)
    )
    vit = build_vit(architecture, class_token="cls_token" in encoder)
    report = compare_keys(state if not is_video_state(state) else encoder, vit.state_dict(), may_be_left_out=LEFT_OUT_PREFIXES)
    if not report.fits:
        raise CheckpointError(
            f"{path} does not match its architecture: {report}. Give TIMM_NAME@FILE for weights of another timm architecture"
        )
    vit.load_state_dict(encoder, strict=True)
    return vit


def load_weights(model: nn.Module, path: Path, *, num_heads: int, encoder_only: bool) -> KeyReport:
    """Load a checkpoint file into a cross-view MAE, all of it or nothing.

    Args:
        model: The model; its names are the published ones.
        path: A file that `read_checkpoint` reads.
        num_heads: Heads of the model's encoder, which no tensor shows; compared with the file's header if it has one.
        encoder_only: Load only the encoder; the decoder keeps its values, and a decoder or head in the file is left out.

    Raises:
        CheckpointError: if the file does not fit, with the key report and what to do; the model is left as it was.
    """
    state, facts = read_checkpoint(path)
    own = model.state_dict()
    expected = encoder_part(own) if encoder_only else own
    report = compare_keys(state, expected, may_be_left_out=LEFT_OUT_PREFIXES if encoder_only else ())
    if not report.fits:
        raise CheckpointError(f"{path} does not fit the model: {report}. {_remedy(state, own, encoder_only)}")
    if ARCHITECTURE_KEY in facts:
        found_heads = VitSettings.model_validate_json(facts[ARCHITECTURE_KEY]).num_heads
        if found_heads != num_heads:
            raise CheckpointError(
                f"{path} was trained with num_heads = {found_heads}, the model has {num_heads}: the shapes fit, the values do not; "
                f"build the model with num_heads={found_heads}"
            )
    model.load_state_dict({key: state[key] for key in report.matched}, strict=not encoder_only)
    return report


def _remedy(state: Mapping[str, Tensor], own: Mapping[str, Tensor], encoder_only: bool) -> str:
    """What to do about a file that does not fit."""
    positions, kernel = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    if positions is not None and kernel is not None and positions.shape[1:2] != own["pos_embed"].shape[1:2]:
        grid = round((positions.shape[1] - 1) ** 0.5)
        return (
            f"Its positions belong to a grid of {grid}x{grid} patches; build the model with img_size={grid * kernel.shape[-1]} and "
            f"patch_size={kernel.shape[-1]}"
        )
    encoder = compare_keys(state, encoder_part(own), may_be_left_out=LEFT_OUT_PREFIXES)
    if encoder.fits and not encoder_only:
        return "Its encoder fits: load that alone with encoder_only=True"
    return "Build the model with the file's dimensions, or give a ViT checkpoint of this package, CropMAE, MAE, DINO or timm"


def _strip(key: str) -> str:
    for prefix in WRAPPER_PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _listed(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - LISTED_KEYS} more" if len(keys) > LISTED_KEYS else ""
    return f"{list(keys[:LISTED_KEYS])}{more}"


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
