"""MoCo-v3's encoder with its projection head: RCG's condition is the head's output, not the CLS token (spec view_generators 4).

Shapes: B batch, D width of the head's output.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cdgmae.models.encoders.by_name import Encoder, load_encoder, weights_digest
from cdgmae.models.encoders.checkpoint_layouts import read_weights
from cdgmae.models.encoders.checkpoints import ARCHITECTURE_KEY, load_encoder_file, write_model
from cdgmae.models.encoders.vit_encoders import VitEncoder
from cdgmae.settings.encoder import EncoderSettings, VitSettings

HEAD_KEY = "head"
HEAD_KIND = "mocov3"
HEAD_PREFIX = "head."


class ProjectedEncoder(VitEncoder):
    """A ViT whose one token is its CLS token after the head; it has no patch tokens.

    Images of another size than it was trained with are scaled as RCG does it: normalised, then bicubic without antialiasing.
    """

    def __init__(self, vit: VisionTransformer, head: nn.Sequential) -> None:
        super().__init__(vit)
        self.head = head.eval().requires_grad_(False)
        self.embed_dim = head_widths(_prefixed(head), HEAD_PREFIX)[-1]
        self.digest = weights_digest([*vit.state_dict().items(), *_prefixed(head).items()])

    def _tokens(self, images_BCHW: Tensor, final_norm: bool) -> Tensor:
        sides = self.vit.patch_embed.img_size
        if images_BCHW.shape[-2:] != sides:
            images_BCHW = F.interpolate(images_BCHW, sides, mode="bicubic")
        embeddings_BD: Tensor = self.head(super()._tokens(images_BCHW, final_norm)[:, 0])
        return embeddings_BD[:, None]


def projection_head(widths: Sequence[int]) -> nn.Sequential:
    """MoCo-v3's head: linear layers without bias, each with batch normalisation, ReLU between; the last one has no scale or shift."""
    layers: list[nn.Module] = []
    for number, (inner, outer) in enumerate(itertools.pairwise(widths), start=1):
        last = number == len(widths) - 1
        layers += [nn.Linear(inner, outer, bias=False), nn.BatchNorm1d(outer, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


def head_widths(state: dict[str, Tensor], prefix: str) -> list[int]:
    """Widths from the head's input to its output, read from its linear layers' weights."""
    matrices = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix) and tensor.ndim == 2}
    linear = [matrices[key] for key in sorted(matrices, key=lambda key: int(key.split(".")[0]))]
    return [linear[0].shape[1], *(weight.shape[0] for weight in linear)] if linear else []


def write_projected_encoder(path: Path, vit: VisionTransformer, head: nn.Sequential, architecture: VitSettings) -> None:
    """Write both as one safetensors file that `load_conditioning_encoder` reads back."""
    header = {ARCHITECTURE_KEY: architecture.canonical_json(), HEAD_KEY: HEAD_KIND}
    write_model(path, {**vit.state_dict(), **_prefixed(head)}, header)


def load_conditioning_encoder(settings: EncoderSettings, *, device: torch.device) -> Encoder:
    """Load a frozen encoder as `load_encoder` does, with its projection head if the file has one.

    Raises:
        ValueError: see `load_encoder`.
    """
    path = Path(settings.checkpoint or "")
    if path.suffix != ".safetensors" or not path.is_file():
        return load_encoder(settings, device=device)
    weights = read_weights(path, settings)
    state = weights.state
    if weights.header.get(HEAD_KEY) != HEAD_KIND:
        return load_encoder(settings, device=device)
    head = projection_head(head_widths(state, HEAD_PREFIX))
    head.load_state_dict({key.removeprefix(HEAD_PREFIX): value for key, value in state.items() if key.startswith(HEAD_PREFIX)})
    return ProjectedEncoder(load_encoder_file(path), head).to(device).eval()


def _prefixed(head: nn.Sequential) -> dict[str, Tensor]:
    return {f"{HEAD_PREFIX}{key}": tensor for key, tensor in head.state_dict().items()}
