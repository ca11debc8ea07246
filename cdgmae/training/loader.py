"""Batches in the order of the steps, prepared ahead of the device.

A step's global batch is a range of sample positions. Each process takes a consecutive share of it and computes it in micro-batches, the
same ranges every step; worker processes prepare them in chunks, so that what lies in shared memory is bounded however large a
micro-batch is. What a sample is depends on none of these.
"""

from __future__ import annotations

import shutil
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cdgmae.runtime.distribution import local_world_size, rank, share_of, world_size

AHEAD = 2
"""Micro-batches prepared ahead by the background thread; chunks prepared ahead by each worker process."""

SHARED_BYTES = 2 << 30
"""Shared memory that the chunks of all processes of a node may take, where half of what is free is not less."""

SHARED_MEMORY = Path("/dev/shm")

TRIED_SAMPLES = 8
"""Samples from whose size that of a chunk follows."""

Chunk = dict[str, Tensor]
"""Tensors of consecutive samples, on the CPU."""

MicroBatch = tuple[range, list[Chunk]]
"""Sample positions in the global batch and their chunks, in order."""


class BatchSource(Protocol):
    """Where the batches come from."""

    batch_size: int

    def batch(self, step: int, samples: range) -> dict[str, Tensor]:
        """The CPU tensors of `samples` (positions in the global batch) of one 0-based step: a pure function of both.

        Batches of consecutive samples, concatenated tensor by tensor along the first dimension, are the batch of all of them.
        """


def equal_parts(samples: int, limit: int) -> int:
    """Size of the micro-batches of `samples` samples, at most `limit`.

    The largest divisor, so that all are equal and a compiled model sees one shape; where the largest is not more than half the limit,
    sizes differ by one instead, and this is the larger.
    """
    limit = min(limit, samples)
    divisor = next(size for size in range(limit, 0, -1) if samples % size == 0)
    return divisor if 2 * divisor > limit else -(-samples // -(-samples // limit))


def process_share(batch_size: int) -> range:
    """The positions in every step's batch that this process computes.

    Raises:
        ValueError: if there are more processes than samples in a batch.
    """
    if batch_size < world_size():
        raise ValueError(
            f"a batch of {batch_size} samples cannot be shared by {world_size()} processes; raise effective_batch_size or use fewer"
        )
    return share_of(range(batch_size), rank(), world_size())


def cut_micro_batches(share: range, limit: int | None) -> list[range]:
    """The micro-batches of a share, the same for every step; see `equal_parts`. No limit: one."""
    count = -(-len(share) // equal_parts(len(share), limit or len(share)))
    return [share_of(share, number, count) for number in range(count)]


def load_micro_batches(
    source: BatchSource, micro_batches: list[range], first: int, last: int, workers: int, pin_memory: bool
) -> Iterator[MicroBatch]:
    """The micro-batches of steps first..last-1, in order; worker processes are started before this returns.

    Args:
        source: Where the batches come from.
        micro_batches: See `cut_micro_batches`.
        first: First step.
        last: Step to end before.
        workers: Processes that prepare them; 0 is one background thread.
        pin_memory: Whether the tensors are for a GPU.
    """
    if workers == 0 or first >= last:
        return _from_thread(source, [(step, samples) for step in range(first, last) for samples in micro_batches], pin_memory)
    limit = _chunk_samples(_bytes_per_sample(source, first, micro_batches[0]), workers)
    chunks = {samples: [samples[start : start + limit] for start in range(0, len(samples), limit)] for samples in micro_batches}
    tasks = [(step, chunk) for step in range(first, last) for samples in micro_batches for chunk in chunks[samples]]
    # fork: the bags' index is shared with the workers instead of copied to each
    loader = DataLoader(
        _ChunkDataset(source, tasks), batch_size=None, shuffle=False, num_workers=workers, prefetch_factor=AHEAD,
        pin_memory=pin_memory, worker_init_fn=_ignore_stop_signals, multiprocessing_context="fork",
    )  # fmt: skip
    return _gathered(iter(loader), micro_batches, chunks, last - first)


def _from_thread(source: BatchSource, tasks: list[tuple[int, range]], pin_memory: bool) -> Iterator[MicroBatch]:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        pending: deque[tuple[range, Future[Chunk]]] = deque()
        for step, samples in tasks:
            pending.append((samples, pool.submit(_batch, source, step, samples, pin_memory)))
            if len(pending) > AHEAD:
                yield _finished(pending)
        while pending:
            yield _finished(pending)


def _batch(source: BatchSource, step: int, samples: range, pin_memory: bool) -> Chunk:
    batch = source.batch(step, samples)
    return {name: tensor.pin_memory() for name, tensor in batch.items()} if pin_memory else batch


def _finished(pending: deque[tuple[range, Future[Chunk]]]) -> MicroBatch:
    samples, future = pending.popleft()
    return samples, [future.result()]


def _bytes_per_sample(source: BatchSource, step: int, samples: range) -> int:
    tried = source.batch(step, samples[:TRIED_SAMPLES])
    return -(-sum(tensor.nbytes for tensor in tried.values()) // len(samples[:TRIED_SAMPLES]))


def _chunk_samples(bytes_per_sample: int, workers: int) -> int:
    """Samples of a chunk, so that all chunks in shared memory keep within the bound."""
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else SHARED_BYTES
    allowed = min(SHARED_BYTES, free // 2) // local_world_size()
    return max(1, allowed // ((workers * (AHEAD + 1) + 1) * max(1, bytes_per_sample)))


def _gathered(
    loaded: Iterator[Chunk], micro_batches: list[range], chunks: Mapping[range, list[range]], steps: int
) -> Iterator[MicroBatch]:
    for _ in range(steps):
        for samples in micro_batches:
            yield samples, [next(loaded) for _ in chunks[samples]]


class _ChunkDataset(Dataset[Chunk]):
    """The chunks as a map-style data set, for worker processes."""

    def __init__(self, source: BatchSource, tasks: list[tuple[int, range]]) -> None:
        self.source, self.tasks = source, tasks
        self.sent: deque[Chunk] = deque(maxlen=AHEAD + 1)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Chunk:
        # Whoever lets go of shared memory last gives its pages back: the workers, who are many, rather than the one training process.
        self.sent.append(self.source.batch(*self.tasks[index]))
        return self.sent[-1]


def _ignore_stop_signals(_worker: int) -> None:
    """A signal to the whole job must not take the workers away before the training has saved; they end with their parent."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
