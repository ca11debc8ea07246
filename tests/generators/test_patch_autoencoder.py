"""The closed-form first stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cdgmae.generators.parts.patch_autoencoder import PatchAutoencoder


def smooth_images(count: int = 12, side: int = 32, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1) * 2 - 1


def test_components_are_orthonormal_and_latents_have_unit_spread() -> None:
    images = smooth_images()
    model = PatchAutoencoder.fit([images[:5], images[5:]], 4, 12)
    basis = model.basis_LCPP.flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(12), atol=1e-5, rtol=0)
    latents = model.encode(images)
    assert latents.shape == (12, 12, 8, 8)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(12), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(12), atol=2e-2, rtol=0)


def test_all_components_reconstruct_exactly_and_fewer_lose_what_their_variance_says() -> None:
    images = smooth_images()
    complete = PatchAutoencoder.fit([images], 4, 48)
    torch.testing.assert_close(complete(images), images, atol=2e-5, rtol=0)
    variances = complete.spread_L.square()
    for kept in (3, 12):
        lossy = PatchAutoencoder.fit([images], 4, kept)
        error = (lossy(images) - images).square().mean()
        torch.testing.assert_close(error, variances[kept:].sum() / 48, rtol=1e-2, atol=1e-7)


def test_fit_does_not_depend_on_how_images_are_batched_and_survives_saving(tmp_path: Path) -> None:
    images = smooth_images()
    one = PatchAutoencoder.fit([images], 4, 6)
    two = PatchAutoencoder.fit(iter([images[:1], images[1:]]), 4, 6)
    torch.testing.assert_close(one.basis_LCPP, two.basis_LCPP, atol=1e-5, rtol=0)
    one.save_pretrained(tmp_path)
    again = PatchAutoencoder.from_pretrained(tmp_path, use_safetensors=True)
    assert torch.equal(one.encode(images), again.encode(images))


def test_useless_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        PatchAutoencoder.fit([], 4, 6)
    with pytest.raises(ValueError, match="the same"):
        PatchAutoencoder.fit([torch.zeros(2, 3, 8, 8)], 4, 6)
    with pytest.raises(ValueError, match="49"):
        PatchAutoencoder(patch_size=4, latent_channels=49)
