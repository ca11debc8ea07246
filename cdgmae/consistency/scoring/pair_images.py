"""The images behind the pairs: the real image of a bag and its views, or crops of the real image, ready for the encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Protocol

from PIL import Image

from cdgmae.models.normalisation import square
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.consistency import CropDrawSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.media.crop_boxes import SamplePlan, plan_crop_pair
from cdgmae.storage.media.images import MAX_STORED_PIXELS, ImageError, decode_rgb

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

    def class_name(self, key: str) -> str | None:
        """Class of the real image, where it has one."""


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
        self._bags, self._image_size, self._all_pairs = Bags([real_tar], [view_tar]), image_size, all_pairs
        bags = [self._bags.bag(position) for position in range(len(self._bags))]
        self.keys = [bag.key for bag in bags if len(bag.rows) > 1]
        self.without_views = sum(len(bag.rows) == 1 and self._bags.is_good(bag.rows[0]) for bag in bags)

    def view_indices(self, key: str) -> list[int]:
        """See `BagLoader`."""
        return self._bags.bag(self._bags.position(key)).view_indices

    def pairs(self, key: str) -> list[tuple[int, int]]:
        """See `BagLoader`."""
        indices = self.view_indices(key)
        return list(combinations(indices, 2)) if self._all_pairs else [(0, index) for index in indices[1:]]

    def load(self, key: str) -> LoadedBag:
        """See `BagLoader`."""
        bag = self._bags.bag(self._bags.position(key))
        return LoadedBag(key, [self._image(row, index) for row, index in zip(bag.rows, bag.view_indices, strict=True)])

    def class_name(self, key: str) -> str | None:
        """See `BagLoader`."""
        return self._bags.row(self._bags.bag(self._bags.position(key)).rows[0]).class_name

    def _image(self, row: int, view_index: int) -> BagImage:
        try:
            return BagImage(view_index, image=prepare_image(self._bags.read_checked(row), self._image_size))
        except ImageError as error:
            return BagImage(view_index, reason=f"{'real image' if view_index == 0 else 'view'}: {error}")


class CropBags:
    """Bags drawn from real images alone: pair i of an image is views 2 i - 1 (the target) and 2 i (the anchor).

    A pair is a function of (seed, key, i), drawn as pretext `crops` draws its target and anchor.
    """

    def __init__(self, real_tar: Path, draws: CropDrawSettings, image_size: int) -> None:
        self._images, self._draws, self._image_size = Bags([real_tar]).usable(), draws, image_size
        self.keys = self._images.keys
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
            image = decode_rgb(self._images.read_checked(self._images.position(key)), MAX_STORED_PIXELS)
        except ImageError as error:
            return LoadedBag(key, [BagImage(index, reason=f"real image: {error}") for index in self.view_indices(key)])
        crops: list[Image.Image] = []
        for number in range(1, self._draws.num_pairs + 1):
            generator = numpy_generator(self._draws.seed, CROP_STREAM, key, number)
            crops.extend(cut_crops(image, plan_crop_pair(self._draws, generator, image.size, self._image_size), self._image_size))
        return LoadedBag(key, [BagImage(index, image=crop) for index, crop in zip(self.view_indices(key), crops, strict=True)])

    def class_name(self, key: str) -> str | None:
        """See `BagLoader`."""
        return self._images.row(self._images.position(key)).class_name


def prepare_image(data: bytes, image_size: int) -> Image.Image:
    """Decode an image, scale its shorter side to `image_size` pixels and cut out the central square.

    Raises:
        ImageError: if the bytes are no whole image.
    """
    return square(decode_rgb(data, MAX_STORED_PIXELS), image_size)


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


def bad_pair_reason(images: Iterable[BagImage]) -> str | None:
    """Why a pair cannot be scored: the reason of its first image that has one."""
    return next((bag_image.reason for bag_image in images if bag_image.reason is not None), None)
