"""Vision Transformers of timm as frozen encoders: any prefix tokens in, CLS and patch tokens out.

Shapes: B batch, T tokens, R prefix tokens of the network (CLS, registers), D width, H W image, h w grid of patches.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cdgmae.models.encoders.checkpoint_files import CheckpointError
from cdgmae.models.encoders.checkpoints import compare_keys
from cdgmae.models.encoders.frozen_encoder import Encoder, weights_digest
from cdgmae.models.encoders.timm_models import name_problem
from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cdgmae.models.positions import resize_positions
from cdgmae.settings.encoder import EXPORTED_FILES, HUB_PREFIXES, LOCAL_PREFIX
from cdgmae.storage.hub import FETCH_ADVICE, use_cache_without_network

HEAD_PREFIXES = ("head.", "head_dist.", "attn_pool.", "mask_token", "decoder", "fc_norm.")
"""Entries of a weights file that an encoder without head has no place for and does not miss."""


class VitEncoder(Encoder):
    """A plain timm Vision Transformer with absolute positions, resized as the published evaluation does (`resize_positions`).

    Layer scale, SwiGLU, register tokens and a missing CLS token are all fine.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__(vit.patch_embed.patch_size[0], vit.embed_dim, weights_digest(vit.state_dict().items()))
        self.vit = vit.eval().requires_grad_(False)

    def _tokens(self, images_BCHW: Tensor, final_norm: bool) -> Tensor:
        vit = self.vit
        height, width = (side // self.patch_size for side in images_BCHW.shape[-2:])
        tokens_BTD = vit.patch_embed.norm(vit.patch_embed.proj(images_BCHW).flatten(2).transpose(1, 2))
        prefix_1RD = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        prefix = [token.expand(len(tokens_BTD), -1, -1) for token in prefix_1RD]
        if vit.no_embed_class:  # positions belong to the patches alone
            tokens_BTD = torch.cat([*prefix, tokens_BTD + resize_positions(vit.pos_embed, height, width, prefix=0)], dim=1)
        else:
            positions_1TD = resize_positions(vit.pos_embed, height, width, prefix=vit.num_prefix_tokens)
            tokens_BTD = torch.cat([*prefix, tokens_BTD], dim=1) + positions_1TD
        tokens_BTD = vit.blocks(vit.norm_pre(tokens_BTD))
        if final_norm:
            tokens_BTD = norm_of(vit)(tokens_BTD)
        return cls_and_patches(tokens_BTD, vit.num_prefix_tokens, vit.cls_token is not None)


class TimmEncoder(Encoder):
    """Any other timm transformer of one resolution (rotary positions: DINOv3, EVA-02; a distillation token: DeiT), by its own forward."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.patch_embed.patch_size[0], model.embed_dim, weights_digest(model.state_dict().items()))
        self.model = model.eval().requires_grad_(False)

    def _tokens(self, images_BCHW: Tensor, final_norm: bool) -> Tensor:
        [(patches_BND, prefix_BRD)] = self.model.forward_intermediates(
            images_BCHW, indices=1, norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        tokens_BTD = torch.cat([prefix_BRD, patches_BND], dim=1)
        if final_norm:
            tokens_BTD = norm_of(self.model)(tokens_BTD)
        return cls_and_patches(tokens_BTD, self.model.num_prefix_tokens, getattr(self.model, "cls_token", None) is not None)


class RenormalisedEncoder(Encoder):
    """An encoder trained with another mean and standard deviation than ImageNet's, behind the common interface."""

    def __init__(self, encoder: Encoder, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(encoder.patch_size, encoder.embed_dim, encoder.digest)
        self.encoder = encoder
        scale = torch.tensor(IMAGENET_STD) / torch.tensor(std)
        shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", shift.view(1, 3, 1, 1))

    def shape_tokens(self, images_BCHW: Tensor) -> Tensor:
        """See `Encoder`."""
        return self.encoder.shape_tokens(images_BCHW)

    def _tokens(self, images_BCHW: Tensor, final_norm: bool) -> Tensor:
        return self.encoder.tokens(images_BCHW * self.get_buffer("scale") + self.get_buffer("shift"), final_norm=final_norm)


def norm_of(model: Any) -> nn.Module:
    """The norm behind the last block: timm keeps it as `fc_norm` in networks that average patches for classification."""
    norm: nn.Module = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    return norm


def cls_and_patches(tokens_BTD: Tensor, num_prefix: int, has_cls: bool) -> Tensor:
    """CLS, then the patch tokens. Registers and distillation tokens are dropped; a missing CLS is the mean of the patches."""
    patches = tokens_BTD[:, num_prefix:]
    cls_token = tokens_BTD[:, :1] if has_cls else patches.mean(dim=1, keepdim=True)
    return tokens_BTD if has_cls and num_prefix == 1 else torch.cat([cls_token, patches], dim=1)


def timm_encoder(name: str, *, pretrained: bool = False, state: Mapping[str, Tensor] | None = None) -> Encoder:
    """An encoder of a timm architecture.

    Args:
        name: timm's name, with its tag if the weights are wanted.
        pretrained: Load timm's weights (from its cache or the hub). Images are then renormalised to the mean and standard
            deviation that the weights were trained with.
        state: Weights to load instead, in timm's key names or any that timm converts (DINOv2, DINOv3, EVA, CLIP).

    Raises:
        ValueError: if timm has no such model, its weights cannot be fetched, or it is no transformer of one resolution.
        CheckpointError: if `state` does not hold every weight of the architecture.
    """
    model = _create(name, pretrained)
    if state is not None:
        _load(model, name, state)
    return timm_model_encoder(model, name, trained=pretrained or state is not None)


def timm_model_encoder(model: Any, name: str = "", *, trained: bool = True) -> Encoder:
    """A model of timm as encoder; it is frozen.

    Args:
        model: The model.
        name: What it is called, for messages.
        trained: Whether images are to be renormalised to the mean and standard deviation of its `pretrained_cfg`.

    Raises:
        ValueError: if it is no transformer of one resolution.
    """
    if not all(hasattr(model, part) for part in ("num_prefix_tokens", "patch_embed", "norm")):
        raise ValueError(
            f"timm model {name or type(model).__name__!r} has no patch tokens of one resolution; choose a Vision Transformer, e.g. "
            "vit_small_patch16_224"
        )
    plain = type(model) is VisionTransformer and model.pos_embed is not None
    encoder: Encoder = VitEncoder(model) if plain else TimmEncoder(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    trained_with = tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))
    if trained and trained_with != (IMAGENET_MEAN, IMAGENET_STD):
        encoder = RenormalisedEncoder(encoder, *trained_with)
    return encoder


def _create(name: str, pretrained: bool) -> Any:
    if not name.startswith(HUB_PREFIXES) and (problem := name_problem(name, weights=pretrained)) is not None:
        raise ValueError(f"encoder {name!r} is no file, and {problem}")
    folder = name.removeprefix(LOCAL_PREFIX)
    if folder != name and (lacking := [file for file in EXPORTED_FILES if not (Path(folder) / file).is_file()]):
        raise ValueError(
            f"encoder {name!r}: {folder} holds no {' and no '.join(lacking)}; give a folder that `cdgmae export hub` wrote"
        )
    if pretrained or name.startswith(HUB_PREFIXES):
        use_cache_without_network()
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError:
        raise ValueError(
            f"timm model {name!r} takes images of one size only; choose a Vision Transformer, e.g. vit_small_patch16_224"
        ) from None
    except Exception as error:  # timm and the hub raise many kinds
        raise ValueError(
            f"encoder {name!r} is neither a file nor a timm model that can be loaded here ({type(error).__name__}: {error}). "
            f"Weights come from the hub: {FETCH_ADVICE}; or give {name}@FILE for a file of them."
        ) from None
    return model


def _load(model: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
    """Load weights strictly after timm's own renaming of published layouts."""
    convert = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
    expected = model.state_dict()
    try:
        converted = dict(state) if convert is None else convert(dict(state), model)
    except Exception as error:  # timm's conversion trips over foreign layouts in many ways
        raise CheckpointError(f"the weights are none of {name} ({type(error).__name__}: {error})") from None
    wanted = {key: tensor for key, tensor in converted.items() if key in expected or not key.startswith(HEAD_PREFIXES)}
    report = compare_keys(wanted, expected)
    if not report.fits:
        raise CheckpointError(f"the weights given for {name} do not fit: {report}")
    model.load_state_dict(wanted, strict=True)
