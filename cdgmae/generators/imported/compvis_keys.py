"""Parameter names of the original latent diffusion code for the diffusers modules used here.

For every parameter of a diffusers U-Net or autoencoder these functions say under which name a checkpoint in CompVis layout
holds it. Going from our side to theirs makes a conversion strict: a name that is not there is missing, one never asked for is
unexpected. Source: spec view_generators section 3.
"""

from __future__ import annotations

import re

UNET_PREFIX = "model.diffusion_model."
FIRST_STAGE_PREFIX = "first_stage_model."
EMA_PREFIX = "model_ema."

UNET_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
STAGE_OUTER = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
}
STAGE_INNER = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}

_BLOCK = re.compile(
    r"(?P<way>down|up)_blocks\.(?P<level>\d+)\.(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<j>\d+)\."
)


def unet_key(name: str, layers_per_block: int, up_attention: list[bool]) -> str:
    """The original name of a UNet2DConditionModel parameter.

    Args:
        name: Name in the diffusers module.
        layers_per_block: Residual layers per level.
        up_attention: For each up block, coarsest first, whether it has attention.
    """
    block = _BLOCK.match(name)
    if block is None:
        outer = next(ours for ours in UNET_OUTER if name.startswith(ours + "."))
        return f"{UNET_PREFIX}{UNET_OUTER[outer]}{_renamed(name[len(outer) :], UNET_RESNET)}"
    rest, kind, level, j = "." + name[block.end() :], block["kind"], int(block["level"]), int(block["j"])
    if block["way"] == "down":
        # input block 0 is the first convolution; every level is its layers and, but for the coarsest, a downsampling block
        place = 1 + level * (layers_per_block + 1) + (layers_per_block if kind == "downsamplers" else j)
        inside = {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[kind]
        rest = rest.removeprefix(".conv") if kind == "downsamplers" else rest
        return f"{UNET_PREFIX}input_blocks.{place}.{inside}{_renamed(rest, UNET_RESNET)}"
    place = level * (layers_per_block + 1) + (layers_per_block if kind == "upsamplers" else j)
    inside = {"resnets": "0", "attentions": "1", "upsamplers": "2" if up_attention[level] else "1"}[kind]
    return f"{UNET_PREFIX}output_blocks.{place}.{inside}{_renamed(rest, UNET_RESNET)}"


def autoencoder_key(name: str, levels: int) -> str:
    """The original name of a VQModel or AutoencoderKL parameter; `levels` is the number of resolutions."""
    half, _, rest = name.partition(".")
    if half not in ("encoder", "decoder"):  # quant_conv, post_quant_conv, quantize.embedding
        return FIRST_STAGE_PREFIX + name
    block = _BLOCK.match(rest)
    if block is None:
        outer = next((ours for ours in STAGE_OUTER if rest.startswith(ours + ".")), None)
        theirs = rest if outer is None else STAGE_OUTER[outer] + _renamed(rest[len(outer) :], STAGE_INNER)
        return f"{FIRST_STAGE_PREFIX}{half}.{theirs}"
    inner, kind, level = "." + rest[block.end() :], block["kind"], int(block["level"])
    level = levels - 1 - level if block["way"] == "up" else level  # the original counts the decoder's levels from the finest
    part = {
        "resnets": f"block.{block['j']}",
        "attentions": f"attn.{block['j']}",
        "downsamplers": "downsample",
        "upsamplers": "upsample",
    }
    return f"{FIRST_STAGE_PREFIX}{half}.{block['way']}.{level}.{part[kind]}{_renamed(inner, STAGE_INNER)}"


def ema_key(key: str) -> str:
    """The name of a U-Net weight's moving average: the module's name without dots under `model_ema.`."""
    return EMA_PREFIX + key.removeprefix("model.").replace(".", "")


def _renamed(rest: str, table: dict[str, str]) -> str:
    """`.module.weight` with its first module renamed by the table, if it is there."""
    for ours, theirs in table.items():
        if rest.startswith(f".{ours}."):
            return f".{theirs}{rest[len(ours) + 1 :]}"
    return rest
