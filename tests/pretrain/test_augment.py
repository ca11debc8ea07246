"""Scaling, mirroring and normalisation, held against torchvision's transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cdgmae.pretrain.augment import MAX_ENLARGED, filter_matrix, finish_views, padded_regions, scale_by_products, scale_one_by_one
from cdgmae.runtime.environment import compiler_problem

SIDE = 24
LARGEST = MAX_ENLARGED * SIDE


def drawn_batch(num_regions: int = 2, nested: bool = False) -> dict[str, Tensor]:
    """Six samples of regions that shrink, grow or keep their size, in noise: the hardest content for a filter."""
    generator = np.random.default_rng(5)
    sizes = generator.integers(8, LARGEST + 1, (6, num_regions, 2)).astype(np.int32)
    sizes[0, 0], sizes[1, 0], sizes[2, 0], sizes[5, -1] = (SIDE, SIDE), (LARGEST, LARGEST), (1, 1), (LARGEST, 1)
    pixels = generator.integers(0, 256, 3 * sizes.prod(axis=2).sum(), dtype=np.uint8)
    batch = {"pixels": pixels, "region_sizes": sizes, "flips": generator.random((6, 2)) < 0.5}
    if nested:
        boxes = [[(0, 0, SIDE, SIDE), (left, 2, left + 9, 14)] for left in range(3, 9)]
        batch["nested"] = np.array(boxes, np.int32)
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def regions_of(batch: dict[str, Tensor]) -> list[list[Tensor]]:
    """Each sample's regions (3, H, W), uint8."""
    place, samples = 0, []
    for sizes in batch["region_sizes"].tolist():
        regions = []
        for height, width in sizes:
            regions.append(batch["pixels"][place : place + 3 * height * width].reshape(height, width, 3).permute(2, 0, 1))
            place += 3 * height * width
        samples.append(regions)
    assert place == len(batch["pixels"])
    return samples


def torchvision_views(batch: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Each view through torchvision: crop, resize, nested crop and resize, flip; 0..255."""
    views = []
    for sample, regions in enumerate(regions_of(batch)):
        for view in range(2):
            image = functional.resize(regions[view % len(regions)].to(dtype), [SIDE, SIDE], antialias=True)
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
    target, anchors = finish_views(batch, SIDE)
    assert anchors is not None
    for found, wanted in ((target, expected[:, 0]), (anchors, expected[:, 1:])):
        assert found.is_contiguous()
        assert (found.shape, found.dtype) == (wanted.shape, torch.float32)
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_a_batch_of_targets_alone_has_no_anchors() -> None:
    batch = drawn_batch(1)
    batch["flips"] = batch["flips"][:, :1]
    target, anchors = finish_views(batch, SIDE)
    assert (target.shape, anchors) == ((6, 3, SIDE, SIDE), None)


@pytest.mark.slow
@pytest.mark.skipif(compiler_problem() is not None, reason="no C compiler")
def test_compiled_filters_give_the_same_views() -> None:
    batch = drawn_batch(1, nested=True)
    compiled, plain = (scale_by_products(batch, SIDE, torch.float32, compiled=way) for way in (True, False))
    torch.testing.assert_close(compiled, plain, atol=1e-3, rtol=0)  # of 255 levels


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


def dense_filter(start: int, end: int, num_out: int, num_in: int) -> Tensor:
    """Every weight of the filter of one line, entry by entry."""
    step = (end - start) / num_out
    width, matrix = max(step, 1.0), torch.zeros(num_out, num_in, dtype=torch.float64)
    for output in range(num_out):
        for entry in range(start, end):
            matrix[output, entry] = max(0.0, 1 - abs(entry + 0.5 - (start + (output + 0.5) * step)) / width)
    return matrix / matrix.sum(dim=1, keepdim=True)


@pytest.mark.parametrize(("num_out", "num_in"), [(10, 20), (10, 10), (10, 5), (7, 31), (3, 2)])
def test_the_few_weights_that_are_computed_are_all_there_are(num_out: int, num_in: int) -> None:
    ranges = [(start, end) for start in range(num_in) for end in range(start + 1, num_in + 1)]
    starts, ends = torch.tensor(ranges).unbind(1)
    expected = torch.stack([dense_filter(start, end, num_out, num_in) for start, end in ranges])
    torch.testing.assert_close(filter_matrix(starts, ends, num_out, num_in).double(), expected, atol=2e-6, rtol=0)
    mirrored = filter_matrix(starts, ends, num_out, num_in, torch.ones(len(starts), dtype=torch.bool))
    torch.testing.assert_close(mirrored.double(), expected.flip(1), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("num_regions", "nested"), CASES)
def test_padded_regions_begin_with_the_packed_ones(num_regions: int, nested: bool) -> None:
    batch = drawn_batch(num_regions, nested)
    padded = padded_regions(batch, LARGEST, torch.float32).view(6, num_regions, LARGEST, LARGEST, 3)
    for regions, canvases in zip(regions_of(batch), padded, strict=True):
        for region, canvas in zip(regions, canvases, strict=True):
            assert torch.equal(canvas[: region.shape[1], : region.shape[2]].permute(2, 0, 1), region.float())
            assert canvas.isfinite().all()
