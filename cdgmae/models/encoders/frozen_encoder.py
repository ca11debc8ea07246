"""The interface of frozen encoders: images in, a CLS token and one token per patch out.

Shapes: B batch, T tokens (CLS first), D width, H W image, P patch side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


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

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @torch.inference_mode()
    def tokens(self, images_BCHW: Tensor, *, final_norm: bool = True) -> Tensor:
        """Tokens (B, 1 + H/P * W/P, D) of ImageNet-normalised images: CLS first, then patches row by row.

        Encoders without CLS token give the mean of their patch tokens in its place; register tokens are left out.

        Args:
            images_BCHW: The images.
            final_norm: Tokens after the encoder's final norm; False gives the last block's output before it. An encoder without
                a norm has only one kind.

        Raises:
            ValueError: if these are no such images, H or W is not a multiple of the patch size, or the features are not finite.
        """
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3 or images_BCHW.dtype not in FLOATS:
            raise ValueError(
                f"{images_BCHW.dtype} of shape {tuple(images_BCHW.shape)}; an encoder takes ImageNet-normalised images (B, 3, H, W) of "
                f"{' or '.join(map(str, FLOATS))}"
            )
        height, width = images_BCHW.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"image of {height}x{width} pixels: sides must be multiples of the patch size {self.patch_size}")
        tokens_BTD = self._tokens(images_BCHW, final_norm)
        if not torch.isfinite(tokens_BTD).all():
            raise ValueError(
                f"features of encoder {self.digest} are NaN or infinite, first in {self._first_bad_layer(images_BCHW, final_norm)}: its "
                "weights are damaged or overflow; train it anew, or take fp32"
            )
        return tokens_BTD

    def _first_bad_layer(self, images_BCHW: Tensor, final_norm: bool) -> str:
        """The layer whose output is the first that is not finite, in the order of computation; the pass is made again."""
        bad: list[str] = []

        def watch(name: str) -> RemovableHandle:
            def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and not torch.isfinite(output).all():
                    bad.append(name)

            return self.get_submodule(name).register_forward_hook(look)

        handles = [watch(name) for name, module in self.named_modules() if not list(module.children())]
        try:
            self._tokens(images_BCHW, final_norm)
        finally:
            for handle in handles:
                handle.remove()
        return f"layer {bad[0]}" if bad else "the tokens"

    def shape_tokens(self, images_BCHW: Tensor) -> Tensor:
        """As `tokens`, without looking at values: for images without any (device `meta`)."""
        return self._tokens(images_BCHW, True)

    def _tokens(self, images_BCHW: Tensor, final_norm: bool) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _tokens")


class PixelEncoder(Encoder):
    """Raw pixels of each patch as its token; the CLS token is their mean. The floor without any network."""

    def __init__(self, patch_size: int) -> None:
        super().__init__(patch_size, 3 * patch_size**2, f"pixels{patch_size}")

    def _tokens(self, images_BCHW: Tensor, final_norm: bool) -> Tensor:
        patches = F.unfold(images_BCHW, self.patch_size, stride=self.patch_size).transpose(1, 2)
        return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)


def given_encoder(encoder: object) -> Encoder:
    """What a caller of the Python interface gave as encoder.

    Raises:
        ValueError: if it is not loaded.
    """
    if not isinstance(encoder, Encoder):
        raise ValueError(
            f"encoder: found {type(encoder).__name__}; give what load_encoder returns, e.g. load_encoder('pixels:16')"
        )
    return encoder


def given_device(device: torch.device | str) -> torch.device:
    """The device that a caller of the Python interface named.

    Raises:
        ValueError: if it is none, or torch cannot use it here.
    """
    if not isinstance(device, torch.device):
        try:
            device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(
                f"device {device!r} cannot be used ({str(error).splitlines()[0]}); give cpu, cuda or cuda:N"
            ) from None
    return device


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """First 12 hex digits of the SHA-256 over names, shapes and values, independent of order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
