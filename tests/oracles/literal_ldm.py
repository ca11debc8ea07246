"""The original latent diffusion networks, one layer after the other, under the parameter names of their checkpoints.

Weights come into being when a layer first asks for them, so that running the networks once makes a whole checkpoint of any
width. Source: spec view_generators sections 1.3, 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


class Weights:
    """A state dict that grows: `make(key, shape)` draws what is not there yet."""

    def __init__(
        self, make: Callable[[str, tuple[int, ...]], Tensor], prefix: str = "", state: dict[str, Tensor] | None = None
    ) -> None:
        self.make, self.prefix, self.state = make, prefix, {} if state is None else state

    def at(self, name: str) -> Weights:
        return Weights(self.make, f"{self.prefix}{name}.", self.state)

    def __call__(self, name: str, *shape: int) -> Tensor:
        key = self.prefix + name
        if key not in self.state:
            self.state[key] = self.make(key, shape)
        return self.state[key]


def conv(w: Weights, x: Tensor, out: int, kernel: int, **options: int) -> Tensor:
    return F.conv2d(x, w("weight", out, x.shape[1], kernel, kernel), w("bias", out), **options)


def linear(w: Weights, x: Tensor, out: int, bias: bool = True) -> Tensor:
    return F.linear(x, w("weight", out, x.shape[-1]), w("bias", out) if bias else None)


def group_norm(w: Weights, x: Tensor, eps: float) -> Tensor:
    return F.group_norm(x, 32, w("weight", x.shape[1]), w("bias", x.shape[1]), eps)


def layer_norm(w: Weights, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w("weight", x.shape[-1]), w("bias", x.shape[-1]), eps)


def upsample(w: Weights, x: Tensor) -> Tensor:
    return conv(w.at("conv"), F.interpolate(x, scale_factor=2.0, mode="nearest"), x.shape[1], 3, padding=1)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    outputs = []
    for head_q, head_k, head_v in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = head_q @ head_k.transpose(1, 2) / math.sqrt(head_q.shape[-1])
        outputs.append(scores.softmax(-1) @ head_v)
    return torch.cat(outputs, -1)


def unet_resnet(w: Weights, x: Tensor, emb: Tensor, out: int) -> Tensor:
    h = conv(w.at("in_layers.2"), F.silu(group_norm(w.at("in_layers.0"), x, 1e-5)), out, 3, padding=1)
    h = h + linear(w.at("emb_layers.1"), F.silu(emb), out)[:, :, None, None]
    h = conv(w.at("out_layers.3"), F.silu(group_norm(w.at("out_layers.0"), h, 1e-5)), out, 3, padding=1)
    return h + (x if x.shape[1] == out else conv(w.at("skip_connection"), x, out, 1))


def cross_attention(w: Weights, x: Tensor, context: Tensor, heads: int) -> Tensor:
    q, k, v = (
        linear(w.at(name), of, x.shape[-1], bias=False) for name, of in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    return linear(w.at("to_out.0"), attend(q, k, v, heads), x.shape[-1])


def spatial_transformer(w: Weights, x: Tensor, context: Tensor, heads: int) -> Tensor:
    batch, channels, height, width = x.shape
    h = conv(w.at("proj_in"), group_norm(w.at("norm"), x, 1e-6), channels, 1)
    t = h.flatten(2).transpose(1, 2)
    b = w.at("transformer_blocks.0")
    n = layer_norm(b.at("norm1"), t)
    t = t + cross_attention(b.at("attn1"), n, n, heads)
    t = t + cross_attention(b.at("attn2"), layer_norm(b.at("norm2"), t), context, heads)
    value, gate = linear(b.at("ff.net.0.proj"), layer_norm(b.at("norm3"), t), 8 * channels).chunk(2, -1)
    t = t + linear(b.at("ff.net.2"), value * F.gelu(gate), channels)
    h = t.transpose(1, 2).reshape(batch, channels, height, width)
    return x + conv(w.at("proj_out"), h, channels, 1)


def literal_unet(w: Weights, config: dict, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """`config` has the original's words: model_channels, channel_mult, attention_resolutions, num_heads or num_head_channels."""
    base, multipliers, blocks = config["model_channels"], config["channel_mult"], config["num_res_blocks"]
    heads = lambda channels: config.get("num_heads") or channels // config["num_head_channels"]  # noqa: E731
    frequencies = torch.exp(-math.log(10000) * torch.arange(base // 2) / (base // 2))
    angles = t[:, None].float() * frequencies[None]
    emb = linear(w.at("time_embed.0"), torch.cat([angles.cos(), angles.sin()], -1), 4 * base)
    emb = linear(w.at("time_embed.2"), F.silu(emb), 4 * base)

    place, h = 0, conv(w.at("input_blocks.0.0"), x, base, 3, padding=1)
    skips = [h]
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            place += 1
            h = unet_resnet(w.at(f"input_blocks.{place}.0"), h, emb, base * multiplier)
            if 2**level in config["attention_resolutions"]:
                h = spatial_transformer(w.at(f"input_blocks.{place}.1"), h, context, heads(h.shape[1]))
            skips.append(h)
        if level < len(multipliers) - 1:
            place += 1
            h = conv(w.at(f"input_blocks.{place}.0.op"), h, h.shape[1], 3, stride=2, padding=1)
            skips.append(h)
    h = unet_resnet(w.at("middle_block.0"), h, emb, h.shape[1])
    h = spatial_transformer(w.at("middle_block.1"), h, context, heads(h.shape[1]))
    h = unet_resnet(w.at("middle_block.2"), h, emb, h.shape[1])
    place = -1
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for number in range(blocks + 1):
            place, inside = place + 1, 1
            h = unet_resnet(w.at(f"output_blocks.{place}.0"), torch.cat([h, skips.pop()], 1), emb, base * multiplier)
            if 2**level in config["attention_resolutions"]:
                h, inside = spatial_transformer(w.at(f"output_blocks.{place}.1"), h, context, heads(h.shape[1])), 2
            if level and number == blocks:
                h = upsample(w.at(f"output_blocks.{place}.{inside}"), h)
    return conv(w.at("out.2"), F.silu(group_norm(w.at("out.0"), h, 1e-5)), config["out_channels"], 3, padding=1)


def stage_resnet(w: Weights, x: Tensor, out: int) -> Tensor:
    h = conv(w.at("conv1"), F.silu(group_norm(w.at("norm1"), x, 1e-6)), out, 3, padding=1)
    h = conv(w.at("conv2"), F.silu(group_norm(w.at("norm2"), h, 1e-6)), out, 3, padding=1)
    return h + (x if x.shape[1] == out else conv(w.at("nin_shortcut"), x, out, 1))


def stage_attention(w: Weights, x: Tensor) -> Tensor:
    h = group_norm(w.at("norm"), x, 1e-6)
    q, k, v = (conv(w.at(name), h, x.shape[1], 1).flatten(2).transpose(1, 2) for name in "qkv")
    return x + conv(w.at("proj_out"), attend(q, k, v, 1).transpose(1, 2).reshape(x.shape), x.shape[1], 1)


def stage_middle(w: Weights, h: Tensor) -> Tensor:
    h = stage_resnet(w.at("block_1"), h, h.shape[1])
    h = stage_attention(w.at("attn_1"), h)
    return stage_resnet(w.at("block_2"), h, h.shape[1])


def literal_encode(w: Weights, config: dict, image: Tensor) -> Tensor:
    """Latents before quantisation; a KL stage (`double_z`) gives mean and log-variance."""
    e, wide = w.at("encoder"), config["z_channels"] * (2 if config["double_z"] else 1)
    h = conv(e.at("conv_in"), image, config["ch"], 3, padding=1)
    for level, multiplier in enumerate(config["ch_mult"]):
        for number in range(config["num_res_blocks"]):
            h = stage_resnet(e.at(f"down.{level}.block.{number}"), h, config["ch"] * multiplier)
            if config["resolution"] // 2**level in config["attn_resolutions"]:
                h = stage_attention(e.at(f"down.{level}.attn.{number}"), h)
        if level < len(config["ch_mult"]) - 1:
            h = conv(e.at(f"down.{level}.downsample.conv"), F.pad(h, (0, 1, 0, 1)), h.shape[1], 3, stride=2)
    h = stage_middle(e.at("mid"), h)
    h = conv(e.at("conv_out"), F.silu(group_norm(e.at("norm_out"), h, 1e-6)), wide, 3, padding=1)
    return conv(w.at("quant_conv"), h, wide, 1)


def literal_decode(w: Weights, config: dict, latents: Tensor) -> Tensor:
    """Quantise to the nearest code (unless `double_z`), then decode."""
    if not config["double_z"]:
        codes = w.at("quantize.embedding")("weight", config["n_embed"], config["embed_dim"])
        flat = latents.permute(0, 2, 3, 1)
        latents = codes[torch.cdist(flat.flatten(0, 2), codes).argmin(1)].reshape(flat.shape).permute(0, 3, 1, 2)
    d, levels = w.at("decoder"), list(enumerate(config["ch_mult"]))
    h = conv(w.at("post_quant_conv"), latents, config["z_channels"], 1)
    h = conv(d.at("conv_in"), h, config["ch"] * levels[-1][1], 3, padding=1)
    h = stage_middle(d.at("mid"), h)
    for level, multiplier in reversed(levels):
        for number in range(config["num_res_blocks"] + 1):
            h = stage_resnet(d.at(f"up.{level}.block.{number}"), h, config["ch"] * multiplier)
            if config["resolution"] // 2**level in config["attn_resolutions"]:
                h = stage_attention(d.at(f"up.{level}.attn.{number}"), h)
        if level:
            h = upsample(d.at(f"up.{level}.upsample"), h)
    return conv(d.at("conv_out"), F.silu(group_norm(d.at("norm_out"), h, 1e-6)), config["out_ch"], 3, padding=1)


def literal_grid_tokens(w: Weights, embeddings: Tensor, hidden: int, width: int, layers: int, mlp: int, levels: int) -> Tensor:
    """ZoomLDM's tokens of one embedding per image at magnification 0: standardise, reduce, centre in 64 padding tokens, transform."""
    standard = (embeddings - embeddings.mean(-1, keepdim=True)) / embeddings.std(-1, keepdim=True)
    centre = linear(w.at("dim_reduce"), standard, hidden)
    tokens = w("pad_token", 1, 1, hidden).repeat(len(embeddings), 64, 1)
    tokens[:, 32] = centre
    level = w.at("mag_embedding")("weight", levels, hidden)[0].repeat(len(embeddings), 1, 1)
    t = torch.cat([level, tokens], 1) + w.at("encoder")("pos_embedding", 1, 65, hidden)
    for number in range(layers):
        b = w.at(f"encoder.layers.encoder_layer_{number}")
        a, n = b.at("self_attention"), layer_norm(b.at("ln_1"), t, 1e-6)
        q, k, v = F.linear(n, a("in_proj_weight", 3 * hidden, hidden), a("in_proj_bias", 3 * hidden)).chunk(3, -1)
        t = t + linear(a.at("out_proj"), attend(q, k, v, 8), hidden)
        inner = F.gelu(linear(b.at("mlp.0"), layer_norm(b.at("ln_2"), t, 1e-6), mlp))
        t = t + linear(b.at("mlp.3"), inner, hidden)
    t = linear(w.at("final_proj"), layer_norm(w.at("encoder.ln"), t, 1e-6), width)
    return layer_norm(w.at("layer_norm"), t)
