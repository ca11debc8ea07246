"""Reading the YAML configuration of the original latent diffusion code into arguments for the diffusers modules used here.

Whatever would change the numbers and is not understood is refused: a U-Net that loads and computes something else is worse
than none. Source: spec view_generators section 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae.generators.pipeline import PredictionType
from cdgmae.settings.reading.plain_values import read_yaml

PREDICTION_TYPES: dict[str, PredictionType] = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}

UNET_FIXED = {
    "dims": 2, "conv_resample": True, "resblock_updown": False, "num_classes": None, "n_embed": None, "use_spatial_transformer": True,
}  # fmt: skip
"""Options of the original U-Net with the one value that is supported (the first four are its defaults)."""

UNET_READ = {
    "in_channels", "out_channels", "model_channels", "attention_resolutions", "num_res_blocks", "channel_mult", "num_heads",
    "num_head_channels", "transformer_depth", "context_dim", "use_scale_shift_norm", "use_linear_in_transformer", "image_size",
}  # fmt: skip
UNET_IRRELEVANT = {
    "use_checkpoint", "use_fp16", "ckpt_path", "dropout", "legacy", "num_heads_upsample", "use_new_attention_order", "ignore_keys",
}  # fmt: skip
"""Options that matter in training or for other attention layers only."""

REFERENCE = re.compile(r"\$\{([\w.]+)\}")
MAX_REFERENCES = 10
"""Longest chain of references that point to each other."""

STAGE_FIXED = {
    "resamp_with_conv": True,
    "tanh_out": False,
    "give_pre_end": False,
    "attn_type": "vanilla",
    "use_linear_attn": False,
}
STAGE_READ = {
    "double_z", "z_channels", "resolution", "in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks", "attn_resolutions",
}  # fmt: skip
STAGE_IRRELEVANT = {"dropout"}


@dataclass(frozen=True, slots=True)
class OriginalConfig:
    """What a configuration says.

    Attributes:
        unet: Arguments of UNet2DConditionModel.
        stage_kind: `vq` or `kl`.
        stage: Arguments of VQModel or AutoencoderKL, but for the scaling factor.
        scaling_factor: As configured; a checkpoint that holds one overrules it.
        betas: Arguments of the noise schedule.
        prediction_type: What the U-Net predicts, in diffusers' word.
        condition: Parameters of the conditioning stage, as they are.
        encoder: Parameters of RCG's built-in encoder, or None.
        image_size: Side of an image in pixels.
    """

    unet: dict[str, Any]
    stage_kind: str
    stage: dict[str, Any]
    scaling_factor: float
    betas: dict[str, Any]
    prediction_type: PredictionType
    condition: dict[str, Any]
    encoder: dict[str, Any] | None
    image_size: int


class _Section:
    """A mapping that knows where it is, for messages."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, Mapping):
            raise ValueError(f"{where} is missing or no mapping; give the configuration that the checkpoint was trained with")
        self.values, self.where = values, where

    def section(self, *names: str) -> _Section:
        section = self
        for name in names:
            section = _Section(section.values.get(name), f"{section.where}.{name}")
        return section

    def need(self, name: str) -> Any:
        if name not in self.values:
            raise ValueError(f"{self.where}.{name} is missing; give the configuration that the checkpoint was trained with")
        return self.values[name]

    def check(self, fixed: Mapping[str, Any], known: set[str]) -> None:
        for name, value in self.values.items():
            if name in fixed and value != fixed[name] and value is not None:
                raise ValueError(f"{self.where}.{name} = {value!r} is not supported; only {fixed[name]!r} is")
            if name not in fixed and name not in known:
                raise ValueError(f"{self.where}.{name} = {value!r} is not understood, so the weights could mean something else")


def read_original_config(path: Path) -> OriginalConfig:
    """Read a configuration in CompVis layout (`model.params.unet_config`, `first_stage_config`, `cond_stage_config`).

    Raises:
        ValueError: naming the key, if something is missing, not understood or not supported.
    """
    try:
        values = read_yaml(path)
        plain = _resolved(values, values)
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}; give the YAML file that belongs to the checkpoint") from None
    model = _Section(plain, str(path)).section("model", "params")
    parameterization = model.values.get("parameterization", "eps")
    if parameterization not in PREDICTION_TYPES:
        raise ValueError(f"{model.where}.parameterization = {parameterization!r}; allowed: {', '.join(PREDICTION_TYPES)}")
    stage_kind, stage = _stage(model.section("first_stage_config", "params"))
    unet = _unet(model.section("unet_config", "params"), model.values.get("image_size"))
    condition = model.values.get("cond_stage_config")
    encoder = model.values.get("pretrained_enc_config")
    return OriginalConfig(
        unet=unet, stage_kind=stage_kind, stage=stage, scaling_factor=float(model.values.get("scale_factor", 1.0)),
        betas=_betas(model), prediction_type=PREDICTION_TYPES[parameterization],
        condition=dict(condition.get("params") or {}) if isinstance(condition, Mapping) else {},
        encoder=dict(encoder.get("params") or {}) if isinstance(encoder, Mapping) else None,
        image_size=unet["sample_size"] * 2 ** (len(stage["block_out_channels"]) - 1),
    )  # fmt: skip


def _betas(model: _Section) -> dict[str, Any]:
    """The original calls "linear" what diffusers calls scaled_linear: linear in the square root of beta."""
    kind = model.values.get("beta_schedule", "linear")
    if kind != "linear":
        raise ValueError(f"{model.where}.beta_schedule = {kind!r} is not supported; only 'linear' is")
    for name in ("rescale_betas_zero_snr", "given_betas"):
        if model.values.get(name):
            raise ValueError(
                f"{model.where}.{name} = {model.values[name]!r} is not supported: noise levels follow from linear_start and linear_end"
            )
    return {
        "num_train_timesteps": int(model.values.get("timesteps", 1000)),
        "beta_start": float(model.values.get("linear_start", 1e-4)),
        "beta_end": float(model.values.get("linear_end", 2e-2)),
        "beta_schedule": "scaled_linear",
    }


def _unet(section: _Section, image_size: Any) -> dict[str, Any]:
    section.check(UNET_FIXED, UNET_READ | UNET_IRRELEVANT)
    if not section.need("use_spatial_transformer"):
        raise ValueError(f"{section.where}.use_spatial_transformer = false: a U-Net without cross-attention has no condition")
    width, multipliers = section.need("model_channels"), section.need("channel_mult")
    channels = tuple(width * multiplier for multiplier in multipliers)
    attends = [2**level in section.need("attention_resolutions") for level in range(len(channels))]
    size = section.values.get("image_size", image_size)
    if size is None:
        raise ValueError(f"{section.where}.image_size is missing; it is the side of the latents, 64 for LDM-4 at 256 pixels")
    return {
        "sample_size": int(size), "in_channels": section.need("in_channels"), "out_channels": section.need("out_channels"),
        "block_out_channels": channels, "layers_per_block": _blocks(section),
        "down_block_types": tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
        "transformer_layers_per_block": section.values.get("transformer_depth", 1),
        "cross_attention_dim": section.need("context_dim"),
        # diffusers' misnomer: this is the NUMBER of heads per level
        "attention_head_dim": _heads(section, channels),
        "use_linear_projection": bool(section.values.get("use_linear_in_transformer", False)),
        "resnet_time_scale_shift": "scale_shift" if section.values.get("use_scale_shift_norm") else "default",
    }  # fmt: skip


def _blocks(section: _Section) -> int:
    """Residual blocks per level: one number, or a list of the same number for every level."""
    blocks = section.need("num_res_blocks")
    different = set(blocks) if isinstance(blocks, list) else {blocks}
    if len(different) != 1 or not isinstance(count := different.pop(), int):
        raise ValueError(f"{section.where}.num_res_blocks = {blocks!r} is not supported; every level must have the same number")
    return count


def _resolved(value: Any, root: Any, depth: int = 0) -> Any:
    """Values with OmegaConf's references (`${model.params.image_size}`) replaced by what they point to.

    Raises:
        ValueError: if a reference points nowhere, in circles, or calls a function.
    """
    if isinstance(value, Mapping):
        return {key: _resolved(item, root, depth) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, root, depth) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    node, reference = root, REFERENCE.fullmatch(value)
    for name in reference.group(1).split(".") if reference else ():
        node = node.get(name) if isinstance(node, Mapping) else None
    if reference is None or node is None or isinstance(node, Mapping) or depth > MAX_REFERENCES:
        raise ValueError(f"{value} in the configuration cannot be resolved; write the value in its place")
    return _resolved(node, root, depth + 1)


def _heads(section: _Section, channels: tuple[int, ...]) -> tuple[int, ...]:
    """Heads per level: a fixed number, or a fixed width per head (RCG's LDM-8: 32)."""
    width, number = section.values.get("num_head_channels", -1), section.values.get("num_heads", -1)
    if width not in (-1, None):
        return tuple(level // width for level in channels)
    if number in (-1, None):
        raise ValueError(f"{section.where}: neither num_heads nor num_head_channels is given; head sizes are not in the weights")
    return tuple(number for _ in channels)


def _stage(section: _Section) -> tuple[str, dict[str, Any]]:
    layers = section.section("ddconfig")
    layers.check(STAGE_FIXED, STAGE_READ | STAGE_IRRELEVANT | {"embed_dim", "n_embed"})
    merged = {**layers.values, **section.values}  # some published files have the embedding's sizes one level deeper
    multipliers, resolution = layers.need("ch_mult"), layers.need("resolution")
    attends = [resolution // 2**level in layers.need("attn_resolutions") for level in range(len(multipliers))]
    channels, wide = layers.need("z_channels"), merged.get("embed_dim", layers.need("z_channels"))
    common = {
        "in_channels": layers.need("in_channels"), "out_channels": layers.need("out_ch"), "sample_size": resolution,
        "block_out_channels": tuple(layers.need("ch") * multiplier for multiplier in multipliers),
        "layers_per_block": layers.need("num_res_blocks"), "latent_channels": channels,
        "down_block_types": tuple("AttnDownEncoderBlock2D" if yes else "DownEncoderBlock2D" for yes in attends),
        "up_block_types": tuple("AttnUpDecoderBlock2D" if yes else "UpDecoderBlock2D" for yes in reversed(attends)),
    }  # fmt: skip
    if layers.values.get("double_z"):
        if wide != channels:
            raise ValueError(f"{section.where}.embed_dim = {wide} is not supported for a KL stage with z_channels = {channels}")
        return "kl", common
    if "n_embed" not in merged:
        raise ValueError(f"{section.where}.n_embed is missing: neither a VQ stage (n_embed) nor a KL stage (double_z)")
    return "vq", {**common, "num_vq_embeddings": merged["n_embed"], "vq_embed_dim": wide}
