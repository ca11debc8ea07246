"""Frozen encoders from their settings: everything that can turn an image into tokens, behind the one interface of
`cdgmae.models.encoders.frozen_encoder`."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from cdgmae.models.encoders.checkpoint_layouts import check_finite, read_weights
from cdgmae.models.encoders.checkpoints import load_encoder_file
from cdgmae.models.encoders.frozen_encoder import Encoder, PixelEncoder, given_device, weights_digest
from cdgmae.models.encoders.vit_encoders import VitEncoder, timm_encoder, timm_model_encoder
from cdgmae.models.vit import build_vit
from cdgmae.names import how_to_make
from cdgmae.settings.encoder import EncoderSettings, VitSettings, parse_encoder
from cdgmae.storage.files.records import refuse_changed

__all__ = ["Encoder", "load_encoder", "weights_digest"]


def load_encoder(encoder: EncoderSettings | str | Path | nn.Module, *, device: torch.device | str = "cpu") -> Encoder:
    """Load a frozen encoder, whose `tokens` turns images into a CLS token and one token per patch.

    Args:
        encoder: Which one, in the short form of the command line: a file (`encoder.safetensors`, a published `.pth`), a timm name with its
            weights, `NAME@FILE`, `random:NAME`, or `pixels:16` for the floor without any network. Or `EncoderSettings`; or a Vision
            Transformer of timm that you have built or trained, which is copied. Images then come to it normalised as its `pretrained_cfg` says.
        device: Where to put it.

    Raises:
        ValueError: if nothing known is named, the file does not hold a complete encoder, a weight is not finite, or there is no such device.
    """
    if isinstance(encoder, nn.Module):
        name, loaded = type(encoder).__name__, timm_model_encoder(deepcopy(encoder))
    else:
        if not isinstance(encoder, EncoderSettings | str | Path):
            raise ValueError(
                f"encoder: found {type(encoder).__name__}; give a file, a timm name, 'pixels:16', or a model of timm"
            )
        settings = encoder if isinstance(encoder, EncoderSettings) else parse_encoder(str(encoder))
        name, loaded = settings.text, _load(settings)
    check_finite(f"encoder {name}", loaded.state_dict())
    return loaded.to(given_device(device)).eval()


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
