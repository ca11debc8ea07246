"""Latents and condition embeddings of all training images, computed once and kept on disk in parts.

A part holds some thousand images as plain NumPy arrays that are read through memory mapping, so that a data set of any size
trains in little memory. Parts appear whole or not at all: an interrupted computation goes on with the missing ones, and
several processes share them out.
Shapes: N images, F = 1 or 2 (as it is, mirrored), K targets of an image, C channels, h w latent height and width, D embedding width, R rows.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdgmae.generators.generator_folder import embed
from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.generators.train.target_crops import target_images
from cdgmae.models.encoders.by_name import Encoder
from cdgmae.models.normalisation import pixels_to_tensor, square
from cdgmae.runtime.distribution import is_main_process, rank, world_size
from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.views import GeneratorTrainingSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.files.atomic import explain_write_errors, write_text
from cdgmae.storage.files.sealed import drop_if_damaged, is_intact, sealed_file
from cdgmae.storage.read_ahead import read_ahead

logger = logging.getLogger("cdgmae")

CHUNK = 64
"""Images decoded and encoded together."""

PART = 64 * CHUNK
"""Images of a part."""

READERS, AHEAD = 8, 4 * CHUNK
"""Threads that decode and scale images, and how many images they are ahead of the device."""

IDENTITY_FILE = "identity.json"
LATENTS, EMBEDDINGS = "latents", "embeddings"
DTYPES: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16}
POLL_SECONDS = 0.5

_Squares: TypeAlias = tuple[Image.Image, list[Image.Image]]
"""One image as the encoder sees it, and its targets as the first stage sees them."""


class LatentCache:
    """The finished parts of a folder, as two tables with a row per image."""

    def __init__(self, folder: Path, count: int, part: int = PART) -> None:
        """Open the parts; `count` images in all, `part` per part."""
        self.count, self.part = count, part
        self._arrays = {
            kind: [np.load(part_path(folder, kind, first), mmap_mode="r") for first in range(0, count, part)]
            for kind in (LATENTS, EMBEDDINGS)
        }
        self.flips = int(self._arrays[EMBEDDINGS][0].shape[1])
        self.targets = int(self._arrays[LATENTS][0].shape[1]) // self.flips

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape (C, h, w) of one latent."""
        return tuple(self._arrays[LATENTS][0].shape[2:])

    def latents(self, mirrored: Sequence[int], images: Sequence[int], targets: Sequence[int] | None = None) -> Tensor:
        """Scaled latents (R, C, h, w) of images, each as it is (0) or mirrored (1), of the target of this number; the first if None."""
        places = targets if targets is not None else [0] * len(images)
        return self._rows(LATENTS, [flip * self.targets + place for flip, place in zip(mirrored, places, strict=True)], images)

    def embeddings(self, mirrored: Sequence[int], images: Sequence[int]) -> Tensor:
        """Raw embeddings (R, D) of images, each as it is (0) or mirrored (1)."""
        return self._rows(EMBEDDINGS, mirrored, images)

    def _rows(self, kind: str, places: Sequence[int], images: Sequence[int]) -> Tensor:
        arrays = self._arrays[kind]
        rows = [arrays[image // self.part][image % self.part, place] for place, image in zip(places, images, strict=True)]
        return torch.from_numpy(np.stack(rows).astype(np.float32, copy=False))


def part_path(folder: Path, kind: str, first: int) -> Path:
    """File of the part that starts with image number `first`."""
    return folder / f"{first:09d}.{kind}.npy"


def fill_cache(
    folder: Path,
    identity: str,
    images: Bags,
    encoder: Encoder,
    pipeline: LatentDiffusionPipeline,
    settings: GeneratorTrainingSettings,
    device: torch.device,
    *,
    seed: int = 0,
    log_interval_seconds: float = 30.0,
    part: int = PART,
) -> LatentCache:
    """Compute the missing parts, this process its share of them, and open all when all are there.

    Args:
        folder: Undeclared folder of the parts, the same for all processes.
        identity: What latents and embeddings depend on; parts of another identity are discarded.
        images: Images in the order of the cache.
        encoder: Frozen conditioning encoder, on `device`.
        pipeline: Its first stage, on `device`, makes the latents.
        settings: Sizes, mirroring, and precision of the files.
        device: Where to compute.
        seed: Root of the draws of `target_images`.
        log_interval_seconds: Time between two progress lines.
        part: Images of a part.

    Raises:
        Interrupted: after a signal, with the finished parts kept.
        ValueError: if a part cannot be written.
    """
    _claim(folder, identity, part)
    firsts = range(0, len(images), part)
    mine = [first for number, first in enumerate(firsts) if number % world_size() == rank()]
    missing = [first for first in mine if not all(drop_if_damaged(path) for path in _files_of_part(folder, first))]
    meter = ProgressMeter(
        "latents", len(mine), done=len(mine) - len(missing), unit="parts", interval_seconds=log_interval_seconds,
        silent=not is_main_process(),
    )  # fmt: skip
    ranges = [range(first, min(first + part, len(images))) for first in missing]

    keys = images.keys

    def prepare(index: int) -> _Squares:
        image = images.image(index)
        return square(image, settings.encoder_image_size), target_images(image, settings, seed, keys[index])

    with StopRequest() as stop, meter, ThreadPoolExecutor(READERS, "latents") as readers, ThreadPoolExecutor(1) as writer:
        prepared, writing = read_ahead(readers, prepare, chain(*ranges), AHEAD), None
        for numbers in ranges:
            _stop_if_asked(stop, f"{meter.done} of {len(mine)}")
            arrays = _compute(islice(prepared, len(numbers)), encoder, pipeline, settings, device)
            if writing is not None:
                writing.result()
            writing = writer.submit(_write_part, folder, numbers.start, arrays)
            meter.advance(1)
        if writing is not None:
            writing.result()
        for first in sorted({*firsts} - {*mine}):  # the other processes' parts, which they drop if they are damaged
            while not all(is_intact(path) for path in _files_of_part(folder, first)):
                _stop_if_asked(stop, f"{len(mine)} of {len(mine)}")
                time.sleep(POLL_SECONDS)
    return LatentCache(folder, len(images), part)


def chunks_of(images: Bags, indices: Sequence[int] | range) -> Iterator[Sequence[int]]:
    """The indices in runs of `CHUNK`."""
    for first in range(0, len(indices), CHUNK):
        yield indices[first : first + CHUNK]


def _claim(folder: Path, identity: str, part: int) -> None:
    """Make the folder ours: parts of other settings or images are removed by the main process, the others wait for that."""
    path, wanted = folder / IDENTITY_FILE, json.dumps({"identity": identity, "part": part}) + "\n"
    while not (path.is_file() and path.read_text(encoding="utf-8") == wanted):
        if is_main_process():
            if path.is_file():
                logger.warning("latents in %s belong to other settings or images: computing them anew", folder)
            shutil.rmtree(folder, ignore_errors=True)
            with explain_write_errors(path):
                write_text(path, wanted)
        else:
            time.sleep(POLL_SECONDS)


def _stop_if_asked(stop: StopRequest, done: str) -> None:
    reason = stop.reason()
    if reason:
        raise Interrupted(f"latents: {done} parts are kept ({reason}); run it again to go on")


def _compute(
    prepared: Iterator[_Squares],
    encoder: Encoder,
    pipeline: LatentDiffusionPipeline,
    settings: GeneratorTrainingSettings,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Latents and embeddings of the images of one part, chunk by chunk."""
    latents, embeddings = [], []
    while chunk := list(islice(prepared, CHUNK)):
        seen = pixels_to_tensor([image for image, _ in chunk], device)
        embeddings.append(torch.stack([embed(encoder, view) for view in _mirrored(seen, settings)], dim=1).cpu())
        columns = [pixels_to_tensor(images, device) for images in zip(*(targets for _, targets in chunk), strict=True)]
        views = [view for flipped in zip(*(_mirrored(column, settings) for column in columns), strict=True) for view in flipped]
        latents.append(torch.stack([pipeline.encode(view * 2 - 1) for view in views], dim=1).cpu())
    dtype = DTYPES[settings.cache_precision]
    return {EMBEDDINGS: torch.cat(embeddings).numpy(), LATENTS: torch.cat(latents).numpy().astype(dtype)}


def _mirrored(squares_BCHW: Tensor, settings: GeneratorTrainingSettings) -> list[Tensor]:
    return [squares_BCHW, squares_BCHW.flip(-1)] if settings.horizontal_flip else [squares_BCHW]


def _files_of_part(folder: Path, first: int) -> list[Path]:
    return [part_path(folder, kind, first) for kind in (EMBEDDINGS, LATENTS)]


def _write_part(folder: Path, first: int, arrays: dict[str, np.ndarray]) -> None:
    """Embeddings first: a part counts as finished when its latents are there."""
    for kind, path in zip((EMBEDDINGS, LATENTS), _files_of_part(folder, first), strict=True):
        with sealed_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, arrays[kind])
