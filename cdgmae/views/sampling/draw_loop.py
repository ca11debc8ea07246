"""The drawing loop of one process: while the device draws a batch, the next one's images are decoded and the last one's views
are encoded and written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cdgmae.runtime.interrupts import Interrupted
from cdgmae.runtime.out_of_memory import explain_memory
from cdgmae.settings.views import DrawingSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.journal import Journal, NewRecord
from cdgmae.views.sampling.batch import DrawnView, Item, ViewMaker, view_name
from cdgmae.views.sampling.sampler import SamplerRecipe

GRACE_SECONDS = 15.0
"""How long a batch may go on after a stop was asked for; a longer one is given up and drawn again next time."""

THREADS = 4
"""Threads that decode images and encode views; neither holds Python's lock for long."""


@dataclass(frozen=True)
class DrawingTask:
    """What the processes of one job draw; picklable.

    Attributes:
        recipe: Opened once per process.
        settings: Number of views, batch shape, JPEG quality.
        seed: Root of every random draw.
        shard_tar: The real images.
        journal: Where finished views are kept.
        batches: Rows to draw; each batch holds at most `batch_size`.
    """

    recipe: SamplerRecipe
    settings: DrawingSettings
    seed: int
    shard_tar: Path
    journal: Journal
    batches: list[list[Item]]


class Stopper:
    """Decides when a process stops: at once between batches, after a time of grace inside a batch."""

    def __init__(self, reason: Callable[[], str | None]) -> None:
        """`reason` says why the process should stop now, or gives None; it is asked between denoising steps."""
        self._reason = reason
        self._asked_at: float | None = None

    def asked(self) -> str | None:
        """Why to stop, or None."""
        reason = self._reason()
        if reason is not None and self._asked_at is None:
            self._asked_at = time.monotonic()
        return reason

    def between_steps(self) -> None:
        """Give up the running batch when the time of grace is over.

        Raises:
            Interrupted: then.
        """
        reason = self.asked()
        if self._asked_at is not None and time.monotonic() - self._asked_at > GRACE_SECONDS:
            raise Interrupted(f"{reason}: the running batch was given up")


def draw_batches(
    task: DrawingTask, slot: int, device: torch.device, numbers: Iterator[int], stopper: Stopper, finished: Callable[[int], None]
) -> None:
    """Draw batches until there are none left or a stop is asked for; whatever was drawn is on disk when this returns or raises.

    Args:
        task: What to draw.
        slot: Number of this process: names its files.
        device: Where to draw.
        numbers: Numbers of the batches to draw; asked one batch ahead.
        stopper: When to stop.
        finished: Told the number of a batch once its views cannot be lost any more.

    Raises:
        Interrupted: if a batch had to be given up.
        ValueError: if the sampler cannot be opened or the views cannot be written.
    """
    sampler, images = task.recipe.open(device), Bags([task.shard_tar]).usable()
    recipe = task.recipe
    maker = ViewMaker(sampler, recipe.provenance, images, task.settings, task.seed, views_per_row=recipe.views_per_row)
    with (
        task.journal.claim(f"{slot:03d}") as journal,
        ThreadPoolExecutor(THREADS, "views") as workers,
        ThreadPoolExecutor(1, "views-writer") as writer,
    ):
        writing: Future[None] | None = None

        def write(number: int, views: list[DrawnView]) -> None:
            encoded = workers.map(maker.encode, views)
            journal.append([NewRecord(view_name(row.key, row.view_index), asdict(row), data) for row, data in encoded])
            finished(number)

        try:
            for number, following in _with_next(numbers):
                if stopper.asked():
                    break
                if following is not None:
                    maker.read_ahead(task.batches[following], workers)
                with explain_memory(device, "batch_size of this view source", task.settings.batch_size):
                    views = maker.draw(task.batches[number], stopper.between_steps)
                if writing is not None:
                    writing.result()  # at most one batch waits for the disk
                writing = writer.submit(write, number, views)
        finally:
            if writing is not None:
                writing.result()


def _with_next(numbers: Iterator[int]) -> Iterator[tuple[int, int | None]]:
    """Each number with the one after it, or None."""
    number = next(numbers, None)
    while number is not None:
        following = next(numbers, None)
        yield number, following
        number = following


def draw_in_pool(
    task: DrawingTask,
    slot: int,
    device: torch.device,
    numbers: Iterator[int],
    stop_reason: Callable[[], str | None],
    finished: Callable[[int, None], None],
) -> None:
    """What one of several processes does: see `cdgmae.runtime.pool.PoolWork`."""
    draw_batches(task, slot, device, numbers, Stopper(stop_reason), lambda number: finished(number, None))
