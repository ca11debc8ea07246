"""Batches in the order of the steps, prepared ahead of the device.

A step's global batch is a range of sample positions. Each process takes a consecutive share of it, and cuts its share into parts of at
most `micro_batch_size`; what a sample is depends on neither.
"""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cdgmae.runtime.distribution import rank, share_of, world_size

AHEAD = 2
"""Parts prepared ahead by the background thread, and by each worker process."""

Part = tuple[range, dict[str, Tensor]]
"""Sample positions in the global batch and their tensors, on the CPU."""


class BatchSource(Protocol):
    """Where the batches come from."""

    batch_size: int

    def batch(self, step: int, samples: range) -> dict[str, Tensor]:
        """The CPU tensors of `samples` (positions in the global batch) of one 0-based step: a pure function of both."""


def parts_of_step(batch_size: int, micro_batch_size: int | None) -> list[range]:
    """The parts of every step's batch that this process computes.

    Raises:
        ValueError: if there are more processes than samples in a batch.
    """
    if batch_size < world_size():
        raise ValueError(
            f"a batch of {batch_size} samples cannot be shared by {world_size()} processes; raise effective_batch_size or use fewer"
        )
    share = share_of(range(batch_size), rank(), world_size())
    num_parts = math.ceil(len(share) / (micro_batch_size or len(share)))
    return [share_of(share, number, num_parts) for number in range(num_parts)]


def load_parts(source: BatchSource, parts: list[range], first: int, last: int, workers: int, pin_memory: bool) -> Iterator[Part]:
    """The parts of steps first..last-1, in order.

    Args:
        source: Where the batches come from.
        parts: See `parts_of_step`.
        first: First step.
        last: Step to end before.
        workers: Processes that prepare them; 0 is one background thread.
        pin_memory: Whether the tensors are for a GPU.
    """
    tasks = [(step, samples) for step in range(first, last) for samples in parts]
    return _from_thread(source, tasks) if workers == 0 else _from_processes(source, tasks, workers, pin_memory)


def _from_thread(source: BatchSource, tasks: list[tuple[int, range]]) -> Iterator[Part]:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        pending: deque[tuple[range, Future[dict[str, Tensor]]]] = deque()
        for step, samples in tasks:
            pending.append((samples, pool.submit(source.batch, step, samples)))
            if len(pending) > AHEAD:
                yield _finished(pending)
        while pending:
            yield _finished(pending)


def _finished(pending: deque[tuple[range, Future[dict[str, Tensor]]]]) -> Part:
    samples, future = pending.popleft()
    return samples, future.result()


class _PartDataset(Dataset[dict[str, Tensor]]):
    """The parts as a map-style data set, for worker processes."""

    def __init__(self, source: BatchSource, tasks: list[tuple[int, range]]) -> None:
        self.source, self.tasks = source, tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.source.batch(*self.tasks[index])


def _from_processes(source: BatchSource, tasks: list[tuple[int, range]], workers: int, pin_memory: bool) -> Iterator[Part]:
    # fork: the bags' index is shared with the workers instead of copied to each
    loader = DataLoader(
        _PartDataset(source, tasks), batch_size=None, shuffle=False, num_workers=workers, prefetch_factor=AHEAD,
        pin_memory=pin_memory, worker_init_fn=_ignore_stop_signals, multiprocessing_context="fork",
    )  # fmt: skip
    for (_, samples), batch in zip(tasks, loader, strict=True):
        yield samples, batch


def _ignore_stop_signals(_worker: int) -> None:
    """A signal to the whole job must not take the workers away before the training has saved; they end with their parent."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
