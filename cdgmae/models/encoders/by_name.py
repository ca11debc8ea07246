"""Frozen encoders by name: everything that can turn an image into tokens, behind the one interface of `cdgmae.models.encoders.frozen_encoder`.

A reference is one of

- a file: `encoder.safetensors` of this package, a CropMAE/SiamMAE/MAE/DINO `.pth`, or a VideoMAE `.pth`,
- a timm name, with timm's weights: MAE, DINO, DINOv2, DINOv3, ...,
- `NAME@FILE`: timm's architecture with the weights of a file,
- `random:NAME` or `random:{...}`: fixed random weights of a timm architecture or of `VitSettings`,
- `pixels:P`: raw pixels of patches of side P.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cdgmae.models.encoders.checkpoints import load_encoder_file, read_checkpoint
from cdgmae.models.encoders.frozen_encoder import Encoder, PixelEncoder, weights_digest
from cdgmae.models.encoders.vit_encoders import VitEncoder, timm_encoder
from cdgmae.models.vit import build_vit
from cdgmae.settings.encoder import VitSettings
from cdgmae.storage.tables import file_sha256

__all__ = ["Encoder", "load_encoder", "reference_digest", "weights_digest"]


def load_encoder(reference: str, *, device: torch.device) -> Encoder:
    """Load a frozen encoder.

    Args:
        reference: See the module's description.
        device: Where to put it.

    Raises:
        ValueError: if the reference names nothing known, or the file does not hold a complete encoder.
    """
    return _load(reference).to(device).eval()


def reference_digest(reference: str) -> str:
    """Tells encoders apart without loading one: the SHA-256 of a file, and the reference's text for all that is no file.

    Unlike `Encoder.digest` it differs between two files with the same weights.
    """
    if reference.startswith(("pixels:", "random:")):
        return reference
    if Path(reference).is_file():
        return file_sha256(Path(reference))
    architecture, at, weights = reference.partition("@")
    return f"{architecture}@{file_sha256(Path(weights))}" if at and Path(weights).is_file() else reference


def _load(reference: str) -> Encoder:
    kind, _, rest = reference.partition(":")
    architecture, _, weights = reference.partition("@")
    if kind == "pixels" and rest.isdecimal() and int(rest) > 0:
        return PixelEncoder(int(rest))
    if kind == "random" and rest:
        return _random_encoder(rest)
    if Path(reference).is_file():
        return VitEncoder(load_encoder_file(Path(reference)))
    if weights and Path(weights).is_file():
        return timm_encoder(architecture, state=read_checkpoint(Path(weights))[0])
    if reference.endswith((".safetensors", ".pth", ".pt")) or "/" in reference:
        raise ValueError(
            f"encoder {reference!r}: no such file; run the pretrain stage that makes it, or give an existing file, "
            "or TIMM_NAME@FILE for the weights of a timm architecture"
        )
    return timm_encoder(reference, pretrained=True)


def _random_encoder(text: str) -> Encoder:
    """Fixed random weights: the untrained floor must be the same floor every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if text.startswith("{"):
            return VitEncoder(build_vit(VitSettings.from_plain(json.loads(text))))
        return timm_encoder(text)
