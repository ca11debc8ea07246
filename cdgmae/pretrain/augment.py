"""The second half of augmentation, batched on the training device: scaling, mirroring and normalisation of cut-out regions.

Scaling is bilinear with antialiasing, as torchvision's resize of a `RandomResizedCrop`. On a GPU it is two batched matrix products with
the separable filter, in half precision: 8-bit pixels are exact in it, and the filter's rounding moves a result by less than the
rounding to 8 bits that Pillow and torchvision do. On a CPU each region goes through torch's 8-bit resize.

Shapes: B samples, R regions and V views per sample (R = V, or R = 1: all views show one region), N = B * V, H W padded region,
S output side.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD


def finish_views(batch: dict[str, Tensor], image_size: int) -> Tensor:
    """Scale, mirror and normalise the views of a batch on the device where it lies.

    Args:
        batch: From `BagBatches.batch`: `pixels` (B, R, H, W, 3) uint8, `region_sizes` (B, R, 2) with the used (height, width) of
            each region, `flips` (B, V) bool, and `nested` (B, V, 4) with (left, top, right, bottom) of the part of the scaled region
            that each view shows, if it does not show the whole.
        image_size: S.

    Returns:
        ImageNet-normalised views (B, V, 3, S, S), float32, the target first.
    """
    mean, std = (torch.tensor(values, device=batch["pixels"].device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    factor, shift = 1 / (255 * std), -mean / std
    if batch["pixels"].is_cuda:
        return torch.addcmul(shift, scale_by_products(batch, image_size, torch.float16), factor)
    scaled_BVCSS = scale_one_by_one(batch, image_size)
    views_BVCSS = torch.empty(scaled_BVCSS.shape)
    for scaled, views in zip(scaled_BVCSS, views_BVCSS, strict=True):  # sample by sample, in the processor's cache
        torch.addcmul(shift, scaled.float(), factor, out=views)
    return views_BVCSS


def scale_by_products(batch: dict[str, Tensor], image_size: int, dtype: torch.dtype) -> Tensor:
    """Scaled and mirrored views (B, V, 3, S, S) in 0..255, float32, by two batched matrix products in `dtype`."""
    num_views = batch["flips"].shape[1]
    pixels_BVHWC = batch["pixels"].expand(-1, num_views, -1, -1, -1)
    height, width = pixels_BVHWC.shape[2:4]
    with torch.autocast(pixels_BVHWC.device.type, enabled=False):  # bf16 would round the filter to 8 bits
        rows_NSH, columns_NSW = (matrix.to(dtype) for matrix in view_filters(batch, image_size))
        pixels_NHX = pixels_BVHWC.reshape(-1, height, width * 3).to(dtype)
        lines_NSWC = torch.bmm(rows_NSH, pixels_NHX).view(-1, image_size, width, 3)
        lines_NXW = lines_NSWC.permute(0, 3, 1, 2).reshape(-1, 3 * image_size, width)
        scaled_NXS = torch.bmm(lines_NXW, columns_NSW.transpose(1, 2))
    return scaled_NXS.float().view(-1, num_views, 3, image_size, image_size)


def view_filters(batch: dict[str, Tensor], image_size: int) -> tuple[Tensor, Tensor]:
    """The filters of each view over the lines (N, S, H) and columns (N, S, W) of its region: scaling, nested crop and mirroring."""
    num_views, (height, width) = batch["flips"].shape[1], batch["pixels"].shape[2:4]
    sizes_N2 = batch["region_sizes"].expand(-1, num_views, -1).flatten(0, 1)
    zeros_N = torch.zeros_like(sizes_N2[:, 0])
    rows_NSH = filter_matrix(zeros_N, sizes_N2[:, 0], image_size, height)
    columns_NSW = filter_matrix(zeros_N, sizes_N2[:, 1], image_size, width)
    if "nested" in batch:
        left_N, top_N, right_N, bottom_N = batch["nested"].flatten(0, 1).unbind(1)
        rows_NSH = filter_matrix(top_N, bottom_N, image_size, image_size) @ rows_NSH
        columns_NSW = filter_matrix(left_N, right_N, image_size, image_size) @ columns_NSW
    mirrored_N11 = batch["flips"].flatten()[:, None, None]
    return rows_NSH, torch.where(mirrored_N11, columns_NSW.flip(1), columns_NSW)


def filter_matrix(starts_N: Tensor, ends_N: Tensor, num_out: int, num_in: int) -> Tensor:
    """The antialiased bilinear filter that scales entries start..end-1 of a line to `num_out` entries, as matrices.

    Output i is a mean of the inputs around its centre with triangular weights, whose half-width is one input or, when shrinking, one
    output; inputs outside start..end-1 do not count.

    Returns:
        (N, num_out, num_in), float32, rows of sum 1.
    """
    starts_N11, ends_N11 = starts_N.float()[:, None, None], ends_N.float()[:, None, None]
    steps_N11 = (ends_N11 - starts_N11) / num_out
    outputs_1S1 = torch.arange(num_out, device=starts_N.device, dtype=torch.float32)[None, :, None]
    centres_N1I = torch.arange(num_in, device=starts_N.device, dtype=torch.float32)[None, None, :] + 0.5
    distances_NSI = (centres_N1I - (starts_N11 + (outputs_1S1 + 0.5) * steps_N11)).abs()
    weights_NSI = (1 - distances_NSI / steps_N11.clamp(min=1)).clamp(min=0)
    weights_NSI = weights_NSI * ((centres_N1I > starts_N11) & (centres_N1I < ends_N11))
    return weights_NSI / weights_NSI.sum(dim=2, keepdim=True)


def scale_one_by_one(batch: dict[str, Tensor], image_size: int) -> Tensor:
    """Scaled and mirrored views (B, V, 3, S, S), uint8, region by region."""
    num_regions, flips_BV = batch["pixels"].shape[1], batch["flips"]
    views_BVCSS = torch.empty(*flips_BV.shape, 3, image_size, image_size, dtype=torch.uint8)
    nested = batch["nested"].tolist() if "nested" in batch else None
    whole = [0, 0, image_size, image_size]
    sizes, flips = batch["region_sizes"].tolist(), flips_BV.tolist()
    for sample, pixels_RHWC in enumerate(batch["pixels"].unbind()):
        scaled = [
            resize_pixels(region_HWC[:height, :width].permute(2, 0, 1), image_size)
            for region_HWC, (height, width) in zip(pixels_RHWC, sizes[sample], strict=True)
        ]
        for view, flip in enumerate(flips[sample]):
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
