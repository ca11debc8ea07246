"""Bags through the encoder: decoding in threads ahead of it, passes of a fixed size, every image once.

Shapes: B images of a pass, T tokens (CLS first), D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from cdgmae.consistency.scoring.pair_images import LoadedBag
from cdgmae.models.encoders.by_name import Encoder
from cdgmae.models.normalisation import normalise, pixels_to_tensor

AUTOCAST_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class EmbeddedBag:
    """One bag after the encoder: tokens (T, D) in fp32 by view_index, missing for bag_images without pixels."""

    loaded: LoadedBag
    tokens_TD: dict[int, Tensor] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether every image with pixels has its tokens."""
        return len(self.tokens_TD) == sum(bag_image.image is not None for bag_image in self.loaded.images)


class Embedder:
    """Turns prepared images into the tokens that are compared."""

    def __init__(self, encoder: Encoder, *, final_norm: bool, device: torch.device, precision: str) -> None:
        """Set the pass up.

        Args:
            encoder: The scoring encoder, on `device`.
            final_norm: See `Encoder.tokens`.
            device: Where to compute.
            precision: fp32, bf16 or fp16 (autocast of the encoder alone; scores are computed in fp32).

        Raises:
            ValueError: if the precision is unknown.
        """
        if precision not in AUTOCAST_DTYPES:
            raise ValueError(f"precision {precision!r}; allowed: {', '.join(AUTOCAST_DTYPES)}")
        self.encoder, self.final_norm, self.device, self.dtype = encoder, final_norm, device, AUTOCAST_DTYPES[precision]

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Tokens (B, T, D) in fp32 of square images of one size."""
        images_BCHW = normalise(pixels_to_tensor(images, self.device))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            tokens_BTD = self.encoder.tokens(images_BCHW, final_norm=self.final_norm)
        return tokens_BTD.float()


def embed_bags(bags: Iterable[LoadedBag], embed: Embedder, batch_size: int) -> Iterator[list[EmbeddedBag]]:
    """The bags that each pass completes, in order; passes hold `batch_size` images, whichever bags these belong to."""
    unfinished: deque[EmbeddedBag] = deque()
    waiting: list[tuple[EmbeddedBag, int, Image.Image]] = []
    for loaded in bags:
        bag = EmbeddedBag(loaded)
        unfinished.append(bag)
        waiting.extend((bag, bag_image.view_index, bag_image.image) for bag_image in loaded.images if bag_image.image is not None)
        while len(waiting) >= batch_size:
            _embed_pass(waiting[:batch_size], embed)
            del waiting[:batch_size]
            yield _take_whole(unfinished)
    if waiting:
        _embed_pass(waiting, embed)
    yield _take_whole(unfinished)


def _embed_pass(entries: Sequence[tuple[EmbeddedBag, int, Image.Image]], embed: Embedder) -> None:
    tokens_BTD = embed([image for _, _, image in entries])
    for (bag, view_index, _), tokens_TD in zip(entries, tokens_BTD, strict=True):
        bag.tokens_TD[view_index] = tokens_TD


def _take_whole(unfinished: deque[EmbeddedBag]) -> list[EmbeddedBag]:
    whole = []
    while unfinished and unfinished[0].is_whole:
        whole.append(unfinished.popleft())
    return whole
