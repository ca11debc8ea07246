"""Micro-batches on the device, copied while the one before them is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from cdgmae.training.loader import Chunk, MicroBatch

COPIED_AHEAD = 1
"""Micro-batches that are copied to a GPU ahead of the one that is computed."""

Started = TypeVar("Started")


class DeviceCopies(Protocol[Started]):
    """How chunks get to a device."""

    ahead: int
    """Micro-batches to start ahead of the one that is finished."""

    def start(self, chunks: list[Chunk]) -> Started:
        """Begin to copy the chunks of a micro-batch; may return before they are there."""

    def finish(self, started: Started) -> dict[str, Tensor]:
        """The micro-batch, for work that is given to the device from now on."""


def copy_ahead(loaded: Iterator[MicroBatch], copies: DeviceCopies[Started]) -> Iterator[tuple[range, dict[str, Tensor]]]:
    """The micro-batches on the device, in order, `copies.ahead` of them begun before they are asked for."""
    started: deque[tuple[range, Started]] = deque()
    for samples, chunks in loaded:
        started.append((samples, copies.start(chunks)))
        if len(started) > copies.ahead:
            samples, copied = started.popleft()
            yield samples, copies.finish(copied)
    for samples, copied in started:
        yield samples, copies.finish(copied)


def copies_to(device: torch.device) -> DeviceCopies[object]:
    """The way to copy to a device."""
    copies: DeviceCopies[object] = StreamCopies(device) if device.type == "cuda" else HostCopies()  # type: ignore[assignment]
    return copies


class HostCopies:
    """A CPU computes on the tensors as they are."""

    ahead = 0

    def start(self, chunks: list[Chunk]) -> dict[str, Tensor]:
        """Join the chunks."""
        return join_chunks(chunks)

    def finish(self, started: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nothing is left to do."""
        return started


class StreamCopies:
    """A GPU copies from pinned memory on a stream of its own, beside the computation."""

    ahead = COPIED_AHEAD

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def start(self, chunks: list[Chunk]) -> tuple[dict[str, Tensor], torch.cuda.Event]:
        """Give the copies to the side stream; the host does not wait."""
        with torch.cuda.stream(self._stream):
            copied = [{name: tensor.to(self._device, non_blocking=True) for name, tensor in chunk.items()} for chunk in chunks]
            return join_chunks(copied), self._stream.record_event()

    def finish(self, started: tuple[dict[str, Tensor], torch.cuda.Event]) -> dict[str, Tensor]:
        """Let the computing stream, not the host, wait for the copies; their memory is given back only after it has used them."""
        batch, copied = started
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(copied)
        for tensor in batch.values():
            tensor.record_stream(computing)
        return batch


def join_chunks(chunks: list[Chunk]) -> dict[str, Tensor]:
    """The batch of all samples of consecutive chunks."""
    if len(chunks) == 1:
        return chunks[0]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
