"""Frozen encoders: everything that can turn a picture into tokens, behind one small interface.

A reference is a file (`encoder.safetensors` of this package, or a published `.pth`), a timm name, `random:{...}` / `random:NAME`,
or `pixels:P`.
Shapes: B batch, T tokens (CLS first), D width, H W picture, P patch side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cdgmae.models.checkpoints import load_encoder_file
from cdgmae.models.positions import resize_positions
from cdgmae.models.vit import build_vit
from cdgmae.settings.encoder import VitSettings


class Encoder(nn.Module):
    """A frozen encoder in eval mode.

    Attributes:
        patch_size: Side of a patch in pixels.
        embed_dim: Token width D.
        digest: First 12 hex digits of the SHA-256 of the weights; tells two encoders of one name apart.
    """

    def __init__(self, patch_size: int, embed_dim: int, digest: str) -> None:
        super().__init__()
        self.patch_size, self.embed_dim, self.digest = patch_size, embed_dim, digest

    @torch.inference_mode()
    def tokens(self, images_BCHW: Tensor, *, final_norm: bool = True) -> Tensor:
        """Tokens (B, 1 + H/P * W/P, D) of ImageNet-normalised pictures: CLS first, then patches row by row.

        Args:
            images_BCHW: The pictures.
            final_norm: Tokens after the encoder's final norm; False gives the last block's output before it. An encoder without
                a norm has only one kind.

        Raises:
            ValueError: if H or W is not a multiple of the patch size.
        """
        height, width = images_BCHW.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"picture of {height}x{width} pixels: sides must be multiples of the patch size {self.patch_size}")
        return self._tokens(images_BCHW, final_norm)

    def _tokens(self, images_BCHW: Tensor, final_norm: bool) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _tokens")


class VitEncoder(Encoder):
    """A timm Vision Transformer with one CLS token and absolute positions."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__(vit.patch_embed.patch_size[0], vit.embed_dim, weights_digest(vit.state_dict().items()))
        self.vit = vit.eval().requires_grad_(False)

    def _tokens(self, images_BCHW: Tensor, final_norm: bool) -> Tensor:
        height, width = (side // self.patch_size for side in images_BCHW.shape[-2:])
        patches = self.vit.patch_embed.proj(images_BCHW).flatten(2).transpose(1, 2)
        positions = resize_positions(self.vit.pos_embed, height, width)
        cls_token = self.vit.cls_token.expand(patches.shape[0], -1, -1)
        tokens = self.vit.norm_pre(torch.cat([cls_token, patches], dim=1) + positions)
        blocks: Tensor = self.vit.blocks(tokens)
        normed: Tensor = self.vit.norm(blocks) if final_norm else blocks
        return normed


class PixelEncoder(Encoder):
    """Raw pixels of each patch as its token; the CLS token is their mean. The floor without any network."""

    def __init__(self, patch_size: int) -> None:
        super().__init__(patch_size, 3 * patch_size**2, f"pixels{patch_size}")

    def _tokens(self, images_BCHW: Tensor, final_norm: bool) -> Tensor:
        patches = F.unfold(images_BCHW, self.patch_size, stride=self.patch_size).transpose(1, 2)
        return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)


def load_encoder(reference: str, *, device: torch.device) -> Encoder:
    """Load a frozen encoder.

    Args:
        reference: See the module's description.
        device: Where to put it.

    Raises:
        ValueError: if the reference names nothing known, or the file does not hold a complete ViT encoder.
    """
    kind, _, rest = reference.partition(":")
    if kind == "pixels" and rest.isdecimal() and int(rest) > 0:
        encoder: Encoder = PixelEncoder(int(rest))
    elif kind == "random" and rest:
        encoder = VitEncoder(_random_vit(rest))
    elif Path(reference).is_file():
        encoder = VitEncoder(load_encoder_file(Path(reference)))
    elif reference.endswith((".safetensors", ".pth", ".pt")) or "/" in reference:
        raise ValueError(f"encoder {reference!r}: no such file; run the pretrain stage that makes it, or give an existing file")
    else:
        encoder = VitEncoder(_timm_vit(reference, pretrained=True))
    return encoder.to(device).eval()


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """First 12 hex digits of the SHA-256 over names, shapes and values, independent of order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _random_vit(text: str) -> VisionTransformer:
    """A ViT with fixed random weights: the untrained floor must be the same floor every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if text.startswith("{"):
            return build_vit(VitSettings.from_plain(json.loads(text)))
        return _timm_vit(text, pretrained=False)


def _timm_vit(name: str, *, pretrained: bool) -> VisionTransformer:
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:
        raise ValueError(
            f"encoder {name!r} is neither a file nor a timm model that can be loaded here ({type(error).__name__}: {error}). "
            "Weights come from the hub: on a machine without network, download the file elsewhere and give its path."
        ) from None
    if not isinstance(model, VisionTransformer) or model.num_prefix_tokens != 1 or model.pos_embed is None:
        raise ValueError(
            f"timm model {name!r} is no plain ViT with one CLS token and absolute positions; choose e.g. vit_small_patch16_224"
        )
    return model
