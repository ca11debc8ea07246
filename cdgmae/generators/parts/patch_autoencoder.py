"""A first stage without training: orthonormal principal components of non-overlapping patches.

Encoding is one strided convolution, decoding its transpose. Each component is brought to unit standard deviation, so that one
noise schedule fits all: at the scale of the strongest component the weak ones would be noise until the last steps.

Shapes: B batch, C = 3 channels, H W image, P patch side, L latent channels, h w = H/P, W/P.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Pixels in -1..1 <-> the leading principal components of their patches.

    Attributes:
        basis_LCPP: Orthonormal rows, strongest component first.
        mean_CPP: Mean patch, removed before projecting.
        spread_L: Standard deviation of each component over the images of `fit`; latents are divided by it.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, patch_size: int = 4, latent_channels: int = 12, scaling_factor: float = 1.0) -> None:
        """An unfitted autoencoder; `fit` gives a useful one.

        Args:
            patch_size: Side of a latent cell in pixels.
            latent_channels: Components kept, at most 3 * patch_size^2.
            scaling_factor: What a user of the latents multiplies them with; 1, for they have unit standard deviation already.

        Raises:
            ValueError: if more components are asked for than a patch has values.
        """
        super().__init__()
        if latent_channels > 3 * patch_size**2:
            raise ValueError(
                f"latent_channels = {latent_channels}: a {patch_size}x{patch_size} RGB patch has {3 * patch_size**2}"
            )
        basis = torch.eye(latent_channels, 3 * patch_size**2).reshape(latent_channels, 3, patch_size, patch_size)
        self.basis_LCPP = nn.Parameter(basis, requires_grad=False)
        self.mean_CPP = nn.Parameter(torch.zeros(3, patch_size, patch_size), requires_grad=False)
        self.spread_L = nn.Parameter(torch.ones(latent_channels), requires_grad=False)

    @classmethod
    def fit(cls, batches: Iterable[Tensor], patch_size: int, latent_channels: int) -> Self:
        """Principal components of all patches of all images, in closed form (float64 covariance and eigenvectors).

        Args:
            batches: Images (B, 3, H, W) in -1..1, H and W multiples of `patch_size`; one pass, bounded memory.
            patch_size: Side of a latent cell in pixels.
            latent_channels: Components kept.

        Raises:
            ValueError: if there are no images, or all of their patches are the same.
        """
        size = 3 * patch_size**2
        count, total, products = 0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
        for images_BCHW in batches:
            patches = F.unfold(images_BCHW.double(), patch_size, stride=patch_size).transpose(1, 2).reshape(-1, size)
            count, total, products = count + len(patches), total + patches.sum(0), products + patches.T @ patches
        if count == 0:
            raise ValueError("no images to fit the patch autoencoder to; the data set's shards hold no readable image")
        mean = total / count
        variances, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        components = vectors.flip(1)[:, :latent_channels].T
        strongest = components.gather(1, components.abs().argmax(1, keepdim=True))  # an eigenvector's sign is arbitrary: fix it
        spread_L = variances.flip(0)[:latent_channels].clamp(min=0).sqrt()
        if not spread_L[0] > 0:
            raise ValueError("all patches of the training images are the same; there is nothing to learn from this data set")
        model: Self = cls(patch_size=patch_size, latent_channels=latent_channels)
        model.basis_LCPP.data.copy_((components * strongest.sign()).reshape(latent_channels, 3, patch_size, patch_size))
        model.mean_CPP.data.copy_(mean.reshape(3, patch_size, patch_size))
        model.spread_L.data.copy_(spread_L.clamp(min=1e-3 * float(spread_L[0])))  # a component without variance stays small
        return model

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Components (B, L, H/P, W/P) of images in -1..1, each of unit standard deviation."""
        weight_LCPP = self.basis_LCPP / self.spread_L[:, None, None, None]
        return F.conv2d(images_BCHW, weight_LCPP, -(weight_LCPP * self.mean_CPP).sum((1, 2, 3)), stride=self.config["patch_size"])

    def decode(self, latents_BLhw: Tensor) -> Tensor:
        """Images (B, 3, H, W) from components: the exact inverse when all components are kept."""
        weight_LCPP = self.basis_LCPP * self.spread_L[:, None, None, None]
        images = F.conv_transpose2d(latents_BLhw, weight_LCPP, stride=self.config["patch_size"])
        return images + self.mean_CPP.tile(1, *latents_BLhw.shape[-2:])

    def forward(self, images_BCHW: Tensor) -> Any:
        """Reconstruction of images in -1..1."""
        return self.decode(self.encode(images_BCHW))
