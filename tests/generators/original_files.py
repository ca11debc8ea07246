"""Checkpoints and configurations in the layouts of the original code, at reduced width."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from tests.oracles.literal_ldm import Weights, linear, literal_decode, literal_encode, literal_grid_tokens, literal_unet

LDM4 = {
    "image_size": 8, "in_channels": 3, "out_channels": 3, "model_channels": 32, "attention_resolutions": [2, 1], "num_res_blocks": 1,
    "channel_mult": [1, 2], "num_heads": 1, "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 24,
    "use_checkpoint": True,
}  # fmt: skip
LDM8 = {**LDM4, "in_channels": 4, "out_channels": 4, "attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4], "num_res_blocks": 2,
        "num_head_channels": 32, "num_heads": None, "context_dim": 32}  # fmt: skip
VQ_F4 = {"double_z": False, "z_channels": 3, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2, 2],
         "num_res_blocks": 1, "attn_resolutions": [], "n_embed": 16, "embed_dim": 3}  # fmt: skip
VQ_F8 = {
    **VQ_F4,
    "z_channels": 4,
    "embed_dim": 4,
    "resolution": 64,
    "ch_mult": [1, 2, 2, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [8],
}
SCHEDULE = {"linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000}
ENCODER_DIM = 48


def random_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """Like freshly initialised layers, but with every bias and scale its own."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if len(shape) >= 2:
        return values / (values[0].numel() ** 0.5)
    return 1 + 0.1 * values if key.endswith("weight") else 0.1 * values


def config_file(path: Path, unet: dict[str, Any], stage: dict[str, Any], **model: Any) -> Path:
    """A YAML configuration as the original code reads it."""
    inside = {name: value for name, value in stage.items() if name not in ("n_embed", "embed_dim")}
    sizes = {name: stage[name] for name in ("n_embed", "embed_dim") if name in stage}
    unet = {name: value for name, value in unet.items() if value is not None}
    params = {
        **SCHEDULE, "conditioning_key": "crossattn", "unet_config": {"target": "UNetModel", "params": unet},
        "first_stage_config": {"target": "VQModelInterface", "params": {**sizes, "ddconfig": inside}}, **model,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({"model": {"target": "LatentDiffusion", "params": params}}))
    return path


def networks(unet: dict[str, Any], stage: dict[str, Any], w: Weights | None = None) -> Weights:
    """The weights of a U-Net and a first stage: the original networks are run once."""
    w = w or Weights(random_weight)
    side = unet["image_size"]
    with torch.no_grad():
        noisy, context = torch.zeros(1, unet["in_channels"], side, side), torch.zeros(1, 1, unet["context_dim"])
        literal_unet(w.at("model.diffusion_model"), unet, noisy, torch.tensor([1]), context)
        literal_encode(w.at("first_stage_model"), stage, torch.zeros(1, 3, 32, 32))
        literal_decode(w.at("first_stage_model"), stage, torch.zeros(1, stage["z_channels"], 4, 4))
    return w


def linear_checkpoint() -> Weights:
    """Large-Image-Diffusion's layout: one linear layer over one embedding."""
    w = networks(LDM4, VQ_F4)
    linear(w.at("cond_stage_model.patch_fc"), torch.zeros(1, ENCODER_DIM), LDM4["context_dim"])
    return w


def zoomldm_checkpoint() -> Weights:
    """ZoomLDM's layout: a transformer over a grid of embeddings."""
    w = networks(LDM4, VQ_F4)
    with torch.no_grad():
        literal_grid_tokens(w.at("cond_stage_model"), torch.randn(1, ENCODER_DIM), 24, LDM4["context_dim"], 2, 40, levels=5)
    return w


def rcg_checkpoint() -> Weights:
    """RCG's layout: VQ-f8, a class embedding nobody uses, and MoCo-v3's encoder with its head."""
    w = networks(LDM8, VQ_F8)
    w("cond_stage_model.embedding.weight", 1000, LDM8["context_dim"])
    e, width = w.at("pretrained_encoder"), ENCODER_DIM
    e("cls_token", 1, 1, width)
    e("pos_embed", 1, 5, width)
    e("patch_embed.proj.weight", width, 3, 8, 8)
    e("patch_embed.proj.bias", width)
    shapes = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }
    for block in ("blocks.0.", "blocks.1."):
        for name, shape in {**shapes, "norm1": (width,), "norm2": (width,)}.items():
            e(f"{block}{name}.weight", *shape)
            e(f"{block}{name}.bias", shape[0])
    e("norm.weight", width)
    e("norm.bias", width)
    for number, (inner, outer) in {0: (width, 64), 3: (64, 64), 6: (64, LDM8["context_dim"])}.items():
        e(f"head.{number}.weight", outer, inner)
        for name in ("weight", "bias") if number < 6 else ():
            e(f"head.{number + 1}.{name}", outer)
        e(f"head.{number + 1}.running_mean", outer)
        w.state[f"pretrained_encoder.head.{number + 1}.running_var"] = torch.rand(outer) + 0.5
        w.state[f"pretrained_encoder.head.{number + 1}.num_batches_tracked"] = torch.tensor(7)
    return w


def literal_rcg_embedding(w: Weights, images: Tensor) -> Tensor:
    """MoCo-v3's representation of images (B, 3, 16, 16) in 0..1, before RCG standardises it."""
    e, width = w.at("pretrained_encoder").state, ENCODER_DIM
    get = lambda name: e[f"pretrained_encoder.{name}"]  # noqa: E731
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images - mean[:, None, None]) / std[:, None, None]
    t = F.conv2d(x, get("patch_embed.proj.weight"), get("patch_embed.proj.bias"), stride=8).flatten(2).transpose(1, 2)
    t = torch.cat([get("cls_token").repeat(len(t), 1, 1), t], 1) + get("pos_embed")

    def norm(name: str, t: Tensor) -> Tensor:
        return F.layer_norm(t, (width,), get(f"{name}.weight"), get(f"{name}.bias"), 1e-6)

    def dense(name: str, t: Tensor) -> Tensor:
        return F.linear(t, get(f"{name}.weight"), get(f"{name}.bias"))

    for block in ("blocks.0", "blocks.1"):
        q, k, v = (
            dense(f"{block}.attn.qkv", norm(f"{block}.norm1", t)).reshape(len(t), 5, 3, 12, width // 12).permute(2, 0, 3, 1, 4)
        )
        mixed = (q @ k.transpose(-1, -2) * (width // 12) ** -0.5).softmax(-1) @ v
        t = t + dense(f"{block}.attn.proj", mixed.transpose(1, 2).reshape(len(t), 5, width))
        t = t + dense(f"{block}.mlp.fc2", F.gelu(dense(f"{block}.mlp.fc1", norm(f"{block}.norm2", t))))
    h = norm("norm", t)[:, 0]
    for number in (0, 3, 6):
        h = h @ get(f"head.{number}.weight").T
        h = (h - get(f"head.{number + 1}.running_mean")) / (get(f"head.{number + 1}.running_var") + 1e-5).sqrt()
        h = F.relu(h * get(f"head.{number + 1}.weight") + get(f"head.{number + 1}.bias")) if number < 6 else h
    return h
