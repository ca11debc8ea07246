"""Scaling, mirroring and normalisation, held against torchvision's transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cdgmae.pretrain.augment import filter_matrix, finish_views, scale_by_products, scale_one_by_one

SIDE = 24


def drawn_batch(num_regions: int = 2, nested: bool = False) -> dict[str, Tensor]:
    """Six samples of regions that shrink, grow or keep their size, in noise: the hardest content for a filter."""
    generator = np.random.default_rng(5)
    sizes = generator.integers(8, 64, (6, num_regions, 2)).astype(np.int32)
    sizes[0, 0], sizes[1, 0] = (SIDE, SIDE), (64, 64)
    pixels = np.zeros((6, num_regions, 64, 64, 3), np.uint8)
    for sample in range(6):
        for region in range(num_regions):
            height, width = sizes[sample, region]
            pixels[sample, region, :height, :width] = generator.integers(0, 256, (height, width, 3))
    batch = {"pixels": pixels, "region_sizes": sizes, "flips": generator.random((6, 2)) < 0.5}
    if nested:
        boxes = [[(0, 0, SIDE, SIDE), (left, 2, left + 9, 14)] for left in range(3, 9)]
        batch["nested"] = np.array(boxes, np.int32)
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def torchvision_views(batch: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Each view through torchvision: crop, resize, nested crop and resize, flip; 0..255."""
    views = []
    for sample in range(len(batch["pixels"])):
        for view in range(2):
            region = view % batch["pixels"].shape[1]
            height, width = batch["region_sizes"][sample, region].tolist()
            image = batch["pixels"][sample, region].permute(2, 0, 1).to(dtype)
            image = functional.resized_crop(image, 0, 0, height, width, [SIDE, SIDE], antialias=True)
            if "nested" in batch:
                left, top, right, bottom = batch["nested"][sample, view].tolist()
                image = functional.resized_crop(image, top, left, bottom - top, right - left, [SIDE, SIDE], antialias=True)
            views.append(functional.hflip(image) if batch["flips"][sample, view] else image)
    return torch.stack(views).view(-1, 2, 3, SIDE, SIDE)


CASES = [(2, False), (1, False), (1, True)]


@pytest.mark.parametrize(("num_regions", "nested"), CASES)
def test_one_by_one_is_bitwise_torchvision_on_8_bit_images(num_regions: int, nested: bool) -> None:
    batch = drawn_batch(num_regions, nested)
    assert torch.equal(scale_one_by_one(batch, SIDE), torchvision_views(batch, torch.uint8))


@pytest.mark.parametrize(("num_regions", "nested"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float16, 0.4)])
def test_products_are_torchvision_without_its_rounding(
    num_regions: int, nested: bool, dtype: torch.dtype, tolerance: float
) -> None:
    """In units of one level of 256: below the half level by which rounding to 8 bits moves a value."""
    batch = drawn_batch(num_regions, nested)
    expected = torchvision_views(batch, torch.float32)
    assert (scale_by_products(batch, SIDE, dtype) - expected).abs().max() < tolerance


@pytest.mark.parametrize(("num_regions", "nested"), CASES)
def test_both_ways_agree_within_two_levels(num_regions: int, nested: bool) -> None:
    batch = drawn_batch(num_regions, nested)
    difference = (scale_by_products(batch, SIDE, torch.float16) - scale_one_by_one(batch, SIDE)).abs()
    assert difference.max() <= 2.0
    assert difference.mean() < 0.5


def test_views_are_normalised_as_torchvision_does() -> None:
    batch = drawn_batch()
    images = torchvision_views(batch, torch.uint8).float() / 255
    expected = functional.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD))
    found = finish_views(batch, SIDE)
    assert (found.shape, found.dtype) == ((6, 2, 3, SIDE, SIDE), torch.float32)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_autocast_does_not_round_the_filter() -> None:
    batch = drawn_batch(1, nested=True)
    plain = scale_by_products(batch, SIDE, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scale_by_products(batch, SIDE, torch.float32), plain)


def test_filter_rows_sum_to_one_and_see_their_range_alone() -> None:
    starts, ends = torch.tensor([0, 3, 5]), torch.tensor([40, 9, 6])
    filters = filter_matrix(starts, ends, 10, 40)
    torch.testing.assert_close(filters.sum(2), torch.ones(3, 10))
    for matrix, start, end in zip(filters, starts, ends, strict=True):
        assert not matrix[:, :start].any()
        assert not matrix[:, end:].any()
    assert torch.equal(filter_matrix(torch.tensor([0]), torch.tensor([7]), 7, 7)[0], torch.eye(7))
