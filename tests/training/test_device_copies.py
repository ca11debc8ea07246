"""Micro-batches are copied ahead of their computation, in order, and joined from their chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cdgmae.training.device_copies import HostCopies, StreamCopies, copies_to, copy_ahead, join_chunks
from cdgmae.training.loader import Chunk


class Recorded:
    """Host copies that write down what begins and ends when."""

    def __init__(self, ahead: int) -> None:
        self.ahead, self.events = ahead, list[str]()

    def start(self, chunks: list[Chunk]) -> Tensor:
        joined = join_chunks(chunks)["x"]
        self.events.append(f"start {int(joined[0])}")
        return joined

    def finish(self, started: Tensor) -> dict[str, Tensor]:
        self.events.append(f"finish {int(started[0])}")
        return {"x": started}


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_so_many_copies_begin_before_one_is_finished(ahead: int) -> None:
    copies = Recorded(ahead)
    loaded = (
        (range(number, number + 2), [{"x": torch.full((1,), number)}, {"x": torch.full((1,), -number)}]) for number in range(5)
    )
    for place, (samples, batch) in enumerate(copy_ahead(loaded, copies)):
        copies.events.append(f"compute {place}")
        assert (samples.start, batch["x"].tolist()) == (place, [place, -place])
        begun = sum(event.startswith("start") for event in copies.events)
        assert begun == min(5, place + 1 + ahead)
    finished = [event for event in copies.events if event.startswith(("finish", "compute"))]
    assert finished == [f"{verb} {number}" for number in range(5) for verb in ("finish", "compute")]


def test_a_cpu_computes_on_the_tensors_themselves() -> None:
    chunk = {"x": torch.zeros(3)}
    copies = copies_to(torch.device("cpu"))
    assert isinstance(copies, HostCopies)
    assert copies.finish(copies.start([chunk]))["x"] is chunk["x"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gets_the_same_values() -> None:
    device = torch.device("cuda", 0)
    chunks = [{"x": torch.arange(first, first + 1000).pin_memory()} for first in (0, 1000)]
    copies = StreamCopies(device)
    found = [batch["x"] for _, batch in copy_ahead(iter([(range(2000), chunks)] * 3), copies)]
    assert all(tensor.device == device and torch.equal(tensor.cpu(), torch.arange(2000)) for tensor in found)
