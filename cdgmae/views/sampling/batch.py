"""Making batches of views: conditions once per image, a fixed batch shape, and what to do with bad samples.

Shapes: B rows of the fixed batch shape, V views per row, H W height and width of a view.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdgmae.runtime.seeds import integer_seed
from cdgmae.settings.views import DrawingSettings
from cdgmae.storage.image_shards import BAD, OK, ImageRow
from cdgmae.storage.media.images import ImageError, encode_jpeg
from cdgmae.views.sampling.sampler import Provenance, ViewSampler

SEED_STREAM = "views"
RETRY_STREAM = "views/retry"
CHUNKS_KEPT = 2
"""Chunks of conditions kept: a batch may begin in one and end in the next."""


class Item(NamedTuple):
    """One row to draw: which image of the collection, and the index 1..M of its first (mostly its only) view."""

    image_index: int
    view_index: int


DrawnView = tuple[ImageRow, np.ndarray | None]
"""The index row of a view and its pixels (H, W, 3) before they are encoded; None where there is nothing to store."""


class _Row(NamedTuple):
    """What one row gave: per view its pixels and why they must not be used."""

    seed: int
    pixels_VHW3: np.ndarray
    reasons: list[str | None]


def view_name(key: str, view_index: int) -> str:
    """Name of a view in the journal."""
    return f"{key}.{view_index}"


def rows_of_shard(num_images: int, num_views: int, views_per_row: int) -> list[Item]:
    """All rows of a shard in order of key and view."""
    return [Item(image_index, k) for image_index in range(num_images) for k in range(1, num_views + 1, views_per_row)]


class KeyedImages(Protocol):
    """The real images: those of a shard (`Bags` without views), or images at hand."""

    @property
    def keys(self) -> list[str]:
        """Key of each image."""
        ...

    def __len__(self) -> int: ...

    def row(self, row: int) -> ImageRow:
        """Key and class of an image."""
        ...

    def image(self, row: int) -> Image.Image:
        """An image in RGB.

        Raises:
            ImageError: if it cannot be read.
        """
        ...


class ViewMaker:
    """Draws batches of views with one sampler."""

    def __init__(
        self,
        sampler: ViewSampler,
        provenance: Provenance,
        images: KeyedImages,
        settings: DrawingSettings,
        seed: int,
        *,
        views_per_row: int = 1,
    ) -> None:
        """Join what makes views.

        Args:
            sampler: Draws them.
            provenance: What the sampler was opened from.
            images: The real images.
            settings: Number of views and batch shape.
            seed: Root of every random draw.
            views_per_row: Views that one seed gives.
        """
        self.sampler, self.images, self.settings, self.seed = sampler, images, settings, seed
        self.views_per_row = views_per_row
        rows_per_image = -(-settings.num_views // views_per_row)
        self.chunk_size = max(1, settings.batch_size // rows_per_image)
        self._made_by = asdict(provenance)
        self._chunks: OrderedDict[int, Tensor | None] = OrderedDict()
        self._decoding: dict[int, Future[Image.Image]] = {}
        self._unreadable: dict[int, str] = {}

    def read_ahead(self, items: Sequence[Item], executor: Executor) -> None:
        """Decode in the background the images that `items` will need."""
        for chunk in dict.fromkeys(item.image_index // self.chunk_size for item in items):
            if chunk not in self._chunks:
                for image_index in self._indices_of(chunk):
                    if image_index not in self._decoding:
                        self._decoding[image_index] = executor.submit(self.images.image, image_index)

    @torch.inference_mode()
    def draw(self, items: Sequence[Item], between_steps: Callable[[], None] = lambda: None) -> list[DrawnView]:
        """All views of up to `batch_size` rows; each has pixels or a reason.

        A row with a problem or an image of one single colour is drawn once more from another seed.

        Args:
            items: The rows.
            between_steps: See `ViewSampler.views`.
        """
        loaded = {item.image_index: self._condition(item.image_index) for item in items}
        conditions = {image_index: condition for image_index, condition in loaded.items() if condition is not None}
        usable = [item for item in items if item.image_index in conditions]
        rows = self._draw_rows(usable, conditions, SEED_STREAM, between_steps)
        again = [item for item in usable if any(rows[item].reasons)]
        second = self._draw_rows(again, conditions, RETRY_STREAM, between_steps)
        return [view for item in items for view in self._views(item, rows.get(item), second.get(item))]

    def encode(self, view: DrawnView) -> tuple[ImageRow, bytes]:
        """The stored form of a drawn view; pure, for any thread."""
        row, pixels_HW3 = view
        if pixels_HW3 is None:
            return row, b""
        height, width = pixels_HW3.shape[:2]
        data = encode_jpeg(Image.fromarray(pixels_HW3), self.settings.jpeg_quality)
        return replace(row, extension="jpg", width=width, height=height), data

    def _seed(self, item: Item, stream: str) -> int:
        return integer_seed(self.seed, stream, self.images.keys[item.image_index], item.view_index)

    def _draw_rows(
        self, items: Sequence[Item], conditions: dict[int, Tensor], stream: str, between_steps: Callable[[], None]
    ) -> dict[Item, _Row]:
        """Draw rows in the fixed batch shape; the first row is repeated to fill it."""
        if not items:
            return {}
        filled = [*items, *[items[0]] * (self.settings.batch_size - len(items))]
        seeds = [self._seed(item, stream) for item in filled]
        conditions_B = torch.stack([conditions[item.image_index] for item in filled])
        pixels_BVHW3, problems = self.sampler.views(conditions_B, seeds, between_steps)
        drawn = {}
        for item, number, pixels_VHW3, problem in zip(items, seeds, pixels_BVHW3, problems, strict=False):
            drawn[item] = _Row(number, pixels_VHW3, [problem or _constant(pixels_HW3) for pixels_HW3 in pixels_VHW3])
        return drawn

    def _views(self, item: Item, first: _Row | None, second: _Row | None) -> list[DrawnView]:
        """The views of one row from its first and, where that failed, its second drawing."""
        real = self.images.row(item.image_index)

        def view(k: int, seed: int, pixels_HW3: np.ndarray | None, reason: str | None = None) -> DrawnView:
            status = OK if reason is None else BAD
            return ImageRow(real.key, k, status, reason, real.class_name, seed=seed, **self._made_by), pixels_HW3

        indices = range(item.view_index, min(item.view_index + self.views_per_row, self.settings.num_views + 1))
        if first is None:
            return [view(k, self._seed(item, SEED_STREAM), None, self._unreadable[item.image_index]) for k in indices]
        views = []
        for number, k in enumerate(indices):
            reason = first.reasons[number]
            if reason is None or second is None:
                views.append(view(k, first.seed, first.pixels_VHW3[number], reason))
            elif second.reasons[number] is None:
                views.append(view(k, second.seed, second.pixels_VHW3[number]))
            else:
                views.append(view(k, second.seed, None, f"{reason}, also from a second seed"))
        return views

    def _condition(self, image_index: int) -> Tensor | None:
        """The condition of one image, or None if it cannot be read (`_unreadable` says why).

        Conditions are computed for chunks that depend on the shard's keys and the settings alone, so an image's condition
        comes from the same batch however often the shard is interrupted.
        """
        chunk, place = divmod(image_index, self.chunk_size)
        if chunk not in self._chunks:
            self._chunks[chunk] = self._encode_chunk(chunk)
            while len(self._chunks) > CHUNKS_KEPT:
                self._chunks.popitem(last=False)
        conditions = self._chunks[chunk]
        return None if conditions is None or image_index in self._unreadable else conditions[place]

    def _encode_chunk(self, chunk: int) -> Tensor | None:
        images: list[Image.Image | None] = []
        for image_index in self._indices_of(chunk):
            ahead = self._decoding.pop(image_index, None)
            try:
                images.append(ahead.result() if ahead is not None else self.images.image(image_index))
            except ImageError as error:
                self._unreadable[image_index] = f"real image: {error}"
                images.append(None)
        filler = next((image for image in images if image is not None), None)
        if filler is None:
            return None
        images += [None] * (self.chunk_size - len(images))
        return self.sampler.conditions([filler if image is None else image for image in images])

    def _indices_of(self, chunk: int) -> range:
        return range(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, len(self.images)))


def _constant(pixels_HW3: np.ndarray) -> str | None:
    return "image is constant" if (pixels_HW3 == pixels_HW3[:1, :1]).all() else None
