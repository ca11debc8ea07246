"""Frozen encoders from their settings: everything that can turn an image into tokens, behind the one interface of
`cdgmae.models.encoders.frozen_encoder`."""

from __future__ import annotations

from pathlib import Path

import torch

from cdgmae.models.encoders.checkpoint_layouts import check_finite, read_weights
from cdgmae.models.encoders.checkpoints import load_encoder_file
from cdgmae.models.encoders.frozen_encoder import Encoder, PixelEncoder, weights_digest
from cdgmae.models.encoders.vit_encoders import VitEncoder, timm_encoder
from cdgmae.models.vit import build_vit
from cdgmae.names import how_to_make
from cdgmae.settings.encoder import EncoderSettings, VitSettings
from cdgmae.storage.files.records import refuse_changed

__all__ = ["Encoder", "load_encoder", "weights_digest"]


def load_encoder(settings: EncoderSettings, *, device: torch.device) -> Encoder:
    """Load a frozen encoder.

    Args:
        settings: Which one; `parse_encoder` reads the short text form.
        device: Where to put it.

    Raises:
        ValueError: if the settings name nothing known, or the file does not hold a complete encoder.
    """
    encoder = _load(settings)
    check_finite(f"encoder {settings.text}", encoder.state_dict())
    return encoder.to(device).eval()


def _load(settings: EncoderSettings) -> Encoder:
    if settings.pixels is not None:
        return PixelEncoder(settings.pixels)
    if settings.random is not None:
        return _random_encoder(settings.random)
    if settings.checkpoint is not None:
        return _from_file(settings, Path(settings.checkpoint))
    if settings.timm is not None:
        return timm_encoder(settings.timm, pretrained=True)
    raise ValueError(f"encoder {settings.text} names a run of a configuration; give that run's encoder.safetensors")


def _from_file(settings: EncoderSettings, path: Path) -> Encoder:
    if not path.is_file():
        raise ValueError(
            f"encoder {settings.text!r}: no such file; {how_to_make(path)}, or give an existing file, "
            "or TIMM_NAME@FILE for the weights of a timm architecture"
        )
    refuse_changed(path)
    if settings.timm is not None:
        return timm_encoder(settings.timm, state=read_weights(path, settings).state)
    return VitEncoder(load_encoder_file(path, settings))


def _random_encoder(architecture: VitSettings | str) -> Encoder:
    """Fixed random weights: the untrained floor must be the same floor every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm_encoder(architecture) if isinstance(architecture, str) else VitEncoder(build_vit(architecture))
