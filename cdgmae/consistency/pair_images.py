"""The images behind the pairs: the real image of a bag and its views, or crops of the real image, ready for the encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Protocol

from PIL import Image

from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.consistency import CropDrawSettings
from cdgmae.storage.image_shards import OK, ImageRow, ImageShard
from cdgmae.storage.media.crops import SamplePlan, plan_crop_pair
from cdgmae.storage.media.images import ImageError, center_crop, decode_rgb, resize_shorter_side

MAX_PIXELS = 1 << 28
"""Images in shards were checked when they were packed; this only stops a header that lies about its size."""

CROP_STREAM = "consistency/crops"


@dataclass(frozen=True, slots=True)
class BagImage:
    """One image of a bag on its way through the encoder: pixels, or the reason why there are none."""

    view_index: int
    image: Image.Image | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedBag:
    """One bag with its images in order of view_index."""

    key: str
    images: list[BagImage]


class BagLoader(Protocol):
    """Gives the bags of one shard, any of them at any time and from any thread.

    Attributes:
        keys: Keys in order.
        without_views: Real images that have no view at all, and so no pair.
    """

    keys: list[str]
    without_views: int

    def view_indices(self, key: str) -> list[int]:
        """view_index of every image of a bag, ascending."""

    def pairs(self, key: str) -> list[tuple[int, int]]:
        """(view_a, view_b) of every pair to be scored, ascending, view_a < view_b."""

    def load(self, key: str) -> LoadedBag:
        """The decoded images of a bag, each once."""


class ViewBags:
    """Bags from files: a shard of real images and the view shard of the same keys."""

    def __init__(self, real_tar: Path, view_tar: Path, image_size: int, *, all_pairs: bool = False) -> None:
        """Join both shards by key.

        Args:
            real_tar: Shard of real images (view_index 0).
            view_tar: Shard of views (view_index >= 1).
            image_size: Side in pixels of the prepared images.
            all_pairs: Also the pairs of two views.

        Raises:
            ValueError: if a view has no real image.
        """
        self._real, self._views, self._image_size, self._all_pairs = (
            ImageShard(real_tar),
            ImageShard(view_tar),
            image_size,
            all_pairs,
        )
        self._rows = self._join()
        self.keys = sorted(self._rows)
        self.without_views = sum(row.key not in self._rows for row in self._real.rows(OK))

    def view_indices(self, key: str) -> list[int]:
        """See `BagLoader`."""
        return [row.view_index for row in self._rows[key]]

    def pairs(self, key: str) -> list[tuple[int, int]]:
        """See `BagLoader`."""
        indices = self.view_indices(key)
        return list(combinations(indices, 2)) if self._all_pairs else [(0, index) for index in indices[1:]]

    def load(self, key: str) -> LoadedBag:
        """See `BagLoader`."""
        return LoadedBag(key, [self._image(row) for row in self._rows[key]])

    def _image(self, row: ImageRow) -> BagImage:
        try:
            data = read_checked(self._real if row.view_index == 0 else self._views, row)
            return BagImage(row.view_index, image=prepare_image(data, self._image_size))
        except ImageError as error:
            return BagImage(row.view_index, reason=f"{'real image' if row.view_index == 0 else 'view'}: {error}")

    def _join(self) -> dict[str, list[ImageRow]]:
        """Real row, then view rows in order, by key; keys without views are left out."""
        real = {row.key: row for row in self._real.rows()}
        views: dict[str, list[ImageRow]] = {}
        for row in self._views.rows():
            views.setdefault(row.key, []).append(row)
        orphans = sorted(set(views) - set(real))
        if orphans:
            raise ValueError(
                f"{self._views.tar_path}: {len(orphans)} key(s) such as {orphans[0]!r} have no real image in {self._real.tar_path}; "
                "the views were made from other shards, rerun the views stage"
            )
        return {key: [real[key], *sorted(rows, key=lambda row: row.view_index)] for key, rows in views.items()}


class CropBags:
    """Bags drawn from real images alone: pair i of an image is views 2 i - 1 (the target) and 2 i (the anchor).

    A pair is a function of (seed, key, i), drawn as pretext `crops` draws its target and anchor.
    """

    def __init__(self, real_tar: Path, draws: CropDrawSettings, image_size: int) -> None:
        self._real, self._draws, self._image_size = ImageShard(real_tar), draws, image_size
        self._rows = {row.key: row for row in self._real.rows(OK)}
        self.keys = sorted(self._rows)
        self.without_views = 0

    def view_indices(self, key: str) -> list[int]:
        """See `BagLoader`."""
        return list(range(1, 2 * self._draws.num_pairs + 1))

    def pairs(self, key: str) -> list[tuple[int, int]]:
        """See `BagLoader`."""
        return [(2 * number - 1, 2 * number) for number in range(1, self._draws.num_pairs + 1)]

    def load(self, key: str) -> LoadedBag:
        """See `BagLoader`."""
        try:
            image = decode_rgb(read_checked(self._real, self._rows[key]), MAX_PIXELS)
        except ImageError as error:
            return LoadedBag(key, [BagImage(index, reason=f"real image: {error}") for index in self.view_indices(key)])
        crops: list[Image.Image] = []
        for number in range(1, self._draws.num_pairs + 1):
            generator = numpy_generator(self._draws.seed, CROP_STREAM, key, number)
            crops.extend(cut_crops(image, plan_crop_pair(self._draws, generator, image.size, self._image_size), self._image_size))
        return LoadedBag(key, [BagImage(index, image=crop) for index, crop in zip(self.view_indices(key), crops, strict=True)])


def prepare_image(data: bytes, image_size: int) -> Image.Image:
    """Decode an image, scale its shorter side to `image_size` pixels and cut out the central square.

    Raises:
        ImageError: if the bytes are no whole image.
    """
    return center_crop(resize_shorter_side(decode_rgb(data, MAX_PIXELS), image_size), image_size)


def cut_crops(image: Image.Image, plan: SamplePlan, image_size: int) -> list[Image.Image]:
    """The views of a plan whose regions all lie in one image, scaled as in pre-training (bilinear, antialiased)."""
    side = (image_size, image_size)
    regions = [image.crop(box).resize(side, Image.Resampling.BILINEAR) for box in plan.regions]
    views = [regions[place % len(regions)] for place in range(len(plan.flips))]
    if plan.nested is not None:
        views = [view.crop(box).resize(side, Image.Resampling.BILINEAR) for view, box in zip(views, plan.nested, strict=True)]
    return [
        view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view for view, flip in zip(views, plan.flips, strict=True)
    ]


def read_checked(shard: ImageShard, row: ImageRow) -> bytes:
    """The bytes of one image; what the index already calls bad, or bytes that changed since, is a `ImageError`."""
    if row.status != OK:
        raise ImageError(row.reason or "marked bad in the index")
    data = shard.read(row)
    if row.sha256 is not None and sha256(data).hexdigest() != row.sha256:
        raise ImageError("bytes differ from the SHA-256 in the index")
    return data


def bad_pair_reason(images: Iterable[BagImage]) -> str | None:
    """Why a pair cannot be scored: the reason of its first image that has one."""
    return next((bag_image.reason for bag_image in images if bag_image.reason is not None), None)
