"""Reading and writing encoder weights: our safetensors files and the published `.pth` layouts, never by unsafe pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cdgmae.models.encoders.checkpoint_files import HEADER_KEY, CheckpointError
from cdgmae.models.encoders.checkpoint_layouts import CheckpointWeights, infer_heads, listed, log_assumption, read_weights
from cdgmae.models.encoders.video_checkpoints import image_state, is_video_state
from cdgmae.models.vit import build_vit
from cdgmae.settings.encoder import EncoderSettings, VitSettings
from cdgmae.storage.files.atomic import write_bytes

ENCODER_PREFIXES = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
LEFT_OUT_PREFIXES = ("decoder_", "mask_token", "head", "projector.", "predictor.")
"""What a file may hold beside the encoder and an encoder does without: decoders and training heads. Anything else, such as
register tokens, would change the encoder's output and is refused."""

ARCHITECTURE_KEY = "vit"


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
        return f"{len(self.matched)} keys matched, " + ", ".join(f"{name} {listed(keys)}" for name, keys in kinds.items() if keys)


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


def write_encoder(path: Path, state: Mapping[str, Tensor], architecture: VitSettings, header: Mapping[str, str]) -> None:
    """Write `encoder.safetensors`: a timm-loadable ViT state dict, its dimensions and provenance in the header."""
    write_model(path, encoder_part(state), {ARCHITECTURE_KEY: architecture.canonical_json(), **header})


def write_model(path: Path, state: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file of the whole state dict under the published names, header in the header."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    write_bytes(path, save(tensors, metadata={HEADER_KEY: json.dumps(dict(header), sort_keys=True)}))


def load_encoder_file(path: Path, choice: EncoderSettings | None = None) -> VisionTransformer:
    """A timm ViT with the encoder weights of a checkpoint file, matched strictly; VideoMAE's become an image encoder.

    What was assumed about the file is said in the log.

    Args:
        path: The file.
        choice: `key`, `prefix` and `num_heads` say what the file does not.

    Raises:
        CheckpointError: if keys are missing or have other shapes, with the key report.
    """
    weights = read_weights(path, choice)
    state = weights.state
    if "norm.weight" not in state and "fc_norm.weight" in state:
        state = {name.removeprefix("fc_") if name.startswith("fc_norm.") else name: tensor for name, tensor in state.items()}
        log_assumption(path, "`fc_norm`, which fine-tuning puts behind averaged patches, as the final norm")
    encoder = encoder_part(image_state(state) if is_video_state(state) else state)
    absent = {"pos_embed", "patch_embed.proj.weight", "norm.weight"} - set(encoder)
    if absent:
        raise CheckpointError(f"{path} holds no ViT encoder: missing {sorted(absent)}; found {listed(sorted(state))}")
    architecture = _architecture(path, encoder, weights)
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
        path: A file that `read_weights` reads.
        num_heads: Heads of the model's encoder, which no tensor shows; compared with the file's header if it has one.
        encoder_only: Load only the encoder; the decoder keeps its values, and a decoder or head in the file is left out.

    Raises:
        CheckpointError: if the file does not fit, with the key report and what to do; the model is left as it was.
    """
    weights = read_weights(path)
    state, header = weights.state, weights.header
    own = model.state_dict()
    expected = encoder_part(own) if encoder_only else own
    report = compare_keys(state, expected, may_be_left_out=LEFT_OUT_PREFIXES if encoder_only else ())
    if not report.fits:
        raise CheckpointError(f"{path} does not fit the model: {report}. {_remedy(state, own, encoder_only)}")
    if ARCHITECTURE_KEY in header:
        found_heads = VitSettings.model_validate_json(header[ARCHITECTURE_KEY]).num_heads
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


def _architecture(path: Path, encoder: Mapping[str, Tensor], weights: CheckpointWeights) -> VitSettings:
    """Dimensions of the network: from the file's header, else from its tensors; no tensor shows the number of heads."""
    if ARCHITECTURE_KEY in weights.header:
        return VitSettings.model_validate_json(weights.header[ARCHITECTURE_KEY])
    embed_dim, _, patch_size, _ = encoder["patch_embed.proj.weight"].shape
    grid = round((encoder["pos_embed"].shape[1] - int("cls_token" in encoder)) ** 0.5)
    depth = 1 + max(int(key.split(".")[1]) for key in encoder if key.startswith("blocks."))
    if weights.num_heads is None:
        weights.num_heads = infer_heads(path, embed_dim)
        log_assumption(path, f"{weights.num_heads} heads, as usual at width {embed_dim} (choose with num_heads)")
    return VitSettings(
        image_size=grid * patch_size, patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=weights.num_heads
    )
