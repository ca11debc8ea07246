"""The second half of augmentation, batched on the training device: scaling, mirroring and normalisation of cut-out regions.

Scaling is bilinear with antialiasing, as torchvision's resize of a `RandomResizedCrop`. On a GPU it is two batched matrix products with
the separable filter, in half precision: 8-bit pixels are exact in it, and the filter's rounding moves a result by less than the
rounding to 8 bits that Pillow and torchvision do. On a CPU each region goes through torch's 8-bit resize.

Shapes: B samples, R regions and V views per sample (R = V, or R = 1: all views show one region), A = V - 1 anchors, G = V / R views of
a region, M = B * R regions and N = B * V views of the batch, H W padded region, S output side, K taps of a filter, P pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD, channel_values

MAX_ENLARGED = 2
"""Largest side of a region in units of the output side; the loader scales larger ones before it ships them."""


def finish_views(batch: dict[str, Tensor], image_size: int, *, compiled: bool = False) -> tuple[Tensor, Tensor | None]:
    """Scale, mirror and normalise the views of a batch on the device where it lies.

    Args:
        batch: From `BagBatches.batch`: `pixels` (bytes,) uint8, all regions one after the other, each (height, width, 3);
            `region_sizes` (B, R, 2) with the (height, width) of each region, at most `MAX_ENLARGED` * S; `flips` (B, V) bool; and
            `nested` (B, V, 4) with (left, top, right, bottom) of the part of the scaled region that each view shows, if it does not
            show the whole.
        image_size: S.
        compiled: On a GPU, whether the filters are made by a compiled function: some twenty kernels become two.

    Returns:
        ImageNet-normalised target views (B, 3, S, S) and anchor views (B, A, 3, S, S), None where there are none; float32, each in
        memory of its own.
    """
    mean_C11, std_C11 = (
        channel_values(values, torch.empty((), device=batch["pixels"].device)) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    factor, shift = 1 / (255 * std_C11), -mean_C11 / std_C11
    if batch["pixels"].is_cuda:
        scaled_BVCSS = scale_by_products(batch, image_size, torch.float16, compiled=compiled)
        views = [torch.addcmul(shift, part.float(), factor) for part in (scaled_BVCSS[:, 0], scaled_BVCSS[:, 1:])]
    else:
        scaled_BVCSS = scale_one_by_one(batch, image_size)
        views = [torch.empty(part.shape) for part in (scaled_BVCSS[:, 0], scaled_BVCSS[:, 1:])]
        # written out, which the vectorised kernel needs
        factor, shift = (values_C11.expand(scaled_BVCSS.shape[2:]).contiguous() for values_C11 in (factor, shift))
        for sample, scaled_VCSS in enumerate(scaled_BVCSS):  # sample by sample, in the processor's cache
            torch.addcmul(shift, scaled_VCSS[0].float(), factor, out=views[0][sample])
            torch.addcmul(shift, scaled_VCSS[1:].float(), factor, out=views[1][sample])
    return views[0], views[1] if views[1].shape[1] else None


def scale_by_products(batch: dict[str, Tensor], image_size: int, dtype: torch.dtype, *, compiled: bool = False) -> Tensor:
    """Scaled and mirrored views (B, V, 3, S, S) in 0..255 by two batched matrix products in `dtype`."""
    (num_samples, num_views), num_regions = batch["flips"].shape, batch["region_sizes"].shape[1]
    side = MAX_ENLARGED * image_size
    with torch.autocast(batch["pixels"].device.type, enabled=False):  # bf16 would round the filter to 8 bits
        filters = _compiled_filters() if compiled else view_filters
        rows_NSH, columns_NSW = filters(batch, image_size, dtype)
        rows_MXH = rows_NSH.view(num_samples * num_regions, -1, side)
        lines_NSWC = torch.bmm(rows_MXH, padded_regions(batch, side, dtype)).view(-1, image_size, side, 3)
        lines_NXW = lines_NSWC.permute(0, 3, 1, 2).reshape(-1, 3 * image_size, side)
        scaled_NXS = torch.bmm(lines_NXW, columns_NSW.transpose(1, 2))
    return scaled_NXS.view(-1, num_views, 3, image_size, image_size)


def padded_regions(batch: dict[str, Tensor], side: int, dtype: torch.dtype) -> Tensor:
    """The packed regions as (M, H, W * 3) with H = W = `side`; what lies outside a region is other pixels, not zeros.

    Always the largest size that regions have, so that neither shapes nor kernels change from batch to batch.
    """
    heights_M, widths_M = batch["region_sizes"].flatten(0, 1).unbind(1)
    areas_M = heights_M * widths_M
    starts_M = areas_M.cumsum(0, dtype=torch.int32) - areas_M
    places_L = torch.arange(side, device=areas_M.device, dtype=torch.int32)
    rows_MH = starts_M[:, None] + torch.minimum(places_L, heights_M[:, None] - 1) * widths_M[:, None]
    packed_P3 = batch["pixels"].view(-1, 3)
    pixels_P3 = torch.zeros(
        (len(packed_P3) + side, 3), dtype=dtype, device=packed_P3.device
    )  # the last row may be read past its end
    pixels_P3[: len(packed_P3)] = packed_P3
    index_P = (rows_MH[..., None] + places_L).flatten()
    return pixels_P3.index_select(0, index_P).view(-1, side, side * 3)


def view_filters(batch: dict[str, Tensor], image_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The filters of each view over the lines (N, S, H) and columns (N, S, W) of its region: scaling, nested crop and mirroring."""
    (_, num_views), side = batch["flips"].shape, MAX_ENLARGED * image_size
    heights_N, widths_N = batch["region_sizes"].expand(-1, num_views, -1).flatten(0, 1).unbind(1)
    mirrored_N, zeros_N = batch["flips"].flatten(), torch.zeros_like(heights_N)
    if "nested" not in batch:
        rows_NSH = filter_matrix(zeros_N, heights_N, image_size, side, dtype=dtype)
        return rows_NSH, filter_matrix(zeros_N, widths_N, image_size, side, mirrored_N, dtype=dtype)
    left_N, top_N, right_N, bottom_N = batch["nested"].flatten(0, 1).unbind(1)
    rows_NSH = filter_matrix(zeros_N, heights_N, image_size, side)
    columns_NSW = filter_matrix(zeros_N, widths_N, image_size, side)
    nested_rows_NSS = filter_matrix(top_N, bottom_N, image_size, image_size)
    nested_columns_NSS = filter_matrix(left_N, right_N, image_size, image_size, mirrored_N)
    return (nested_rows_NSS @ rows_NSH).to(dtype), (nested_columns_NSS @ columns_NSW).to(dtype)


@cache
def _compiled_filters() -> Callable[..., tuple[Tensor, Tensor]]:
    """`view_filters`, compiled where it is first used: micro-batches have one size, or two that differ by one."""
    return torch.compile(view_filters, dynamic=False)


def filter_matrix(
    starts_N: Tensor,
    ends_N: Tensor,
    num_out: int,
    num_in: int,
    mirrored_N: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The antialiased bilinear filter that scales entries start..end-1 of a line to `num_out` entries, as matrices.

    Output i is a mean of the inputs around its centre with triangular weights, whose half-width is one input or, when shrinking, one
    output; inputs outside start..end-1 do not count. Only the few weights that can differ from zero are computed, and put in place.

    Args:
        starts_N: First entry of each line.
        ends_N: Entry after the last of each line; at most `num_in`.
        num_out: S.
        num_in: Length of the lines.
        mirrored_N: Lines whose outputs come in reverse order; None for none.
        dtype: Of the result; weights are computed in float32.

    Returns:
        (N, num_out, num_in), rows of sum 1.
    """
    starts_N11, ends_N11 = starts_N.float()[:, None, None], ends_N.float()[:, None, None]
    steps_N11 = (ends_N11 - starts_N11) / num_out
    outputs_1S1 = torch.arange(num_out, device=starts_N.device, dtype=torch.float32)[None, :, None]
    centres_NS1 = starts_N11 + (outputs_1S1 + 0.5) * steps_N11
    if mirrored_N is not None:
        centres_NS1 = torch.where(mirrored_N[:, None, None], centres_NS1.flip(1), centres_NS1)
    widths_N11 = steps_N11.clamp(min=1)
    num_taps = min(num_in, 2 * math.ceil(max(1, num_in / num_out)) + 1)
    first_NS1 = (centres_NS1 - widths_N11 - 0.5).floor().clamp(0, num_in - num_taps)
    inputs_NSK = first_NS1 + torch.arange(num_taps, device=starts_N.device, dtype=torch.float32)
    weights_NSK = (1 - (inputs_NSK + 0.5 - centres_NS1).abs() / widths_N11).clamp(min=0)
    weights_NSK = weights_NSK * ((inputs_NSK >= starts_N11) & (inputs_NSK < ends_N11))
    weights_NSK = weights_NSK / weights_NSK.sum(dim=2, keepdim=True)
    matrix_NSI = torch.zeros(len(starts_N), num_out, num_in, dtype=dtype, device=starts_N.device)
    return matrix_NSI.scatter_(2, inputs_NSK.long(), weights_NSK.to(dtype))


def scale_one_by_one(batch: dict[str, Tensor], image_size: int) -> Tensor:
    """Scaled and mirrored views (B, V, 3, S, S), uint8, region by region."""
    num_regions, flips_BV = batch["region_sizes"].shape[1], batch["flips"]
    views_BVCSS = torch.empty(*flips_BV.shape, 3, image_size, image_size, dtype=torch.uint8)
    nested = batch["nested"].tolist() if "nested" in batch else None
    whole = [0, 0, image_size, image_size]
    areas = batch["region_sizes"].flatten(0, 1).prod(dim=1).tolist()
    regions = iter(zip(batch["pixels"].view(-1, 3).split(areas), batch["region_sizes"].flatten(0, 1).tolist(), strict=True))
    for sample, flips in enumerate(flips_BV.tolist()):
        scaled = []
        for _ in range(num_regions):
            pixels_P3, (height, width) = next(regions)
            scaled.append(resize_pixels(pixels_P3.view(height, width, 3).permute(2, 0, 1), image_size))
        for view, flip in enumerate(flips):
            shown_CSS = scaled[view % num_regions]
            if nested is not None and nested[sample][view] != whole:
                left, top, right, bottom = nested[sample][view]
                shown_CSS = resize_pixels(shown_CSS[:, top:bottom, left:right], image_size)
            views_BVCSS[sample, view] = shown_CSS.flip(2) if flip else shown_CSS
    return views_BVCSS


def resize_pixels(image_CHW: Tensor, image_size: int) -> Tensor:
    """A uint8 image (3, H, W) scaled to (3, S, S), as torchvision's resize of a tensor."""
    if image_CHW.shape[1:] == (image_size, image_size):
        return image_CHW
    return functional.interpolate(image_CHW[None], (image_size, image_size), mode="bilinear", antialias=True)[0]
