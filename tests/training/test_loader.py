"""Micro-batches and the chunks that they are prepared in: which samples, how many bytes, in which processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cdgmae.training import loader
from cdgmae.training.device_copies import copies_to, copy_ahead
from cdgmae.training.loader import cut_micro_batches, equal_parts, load_micro_batches, process_share


class Numbers:
    """Sample i of step s is the number 100 s + i, and a ragged tensor beside it."""

    batch_size = 24

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def batch(self, step: int, samples: range) -> dict[str, Tensor]:
        if self.folder is not None:
            (self.folder / f"{os.getpid()}-{step}-{samples.start}-{samples.stop}").touch()
        ragged = [torch.full((sample % 3 + 1,), sample) for sample in samples]
        return {"number": torch.tensor([100 * step + sample for sample in samples]), "ragged": torch.cat(ragged)}


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_micro_batches_are_equal_wherever_a_divisor_is_near(samples: int, limit: int) -> None:
    parts = cut_micro_batches(range(7, 7 + samples), limit)
    sizes = [len(part) for part in parts]
    assert [sample for part in parts for sample in part] == list(range(7, 7 + samples))
    assert max(sizes) == equal_parts(samples, limit) <= limit
    assert max(sizes) - min(sizes) <= 1
    near = [size for size in range(1, min(samples, limit) + 1) if samples % size == 0 and 2 * size > min(samples, limit)]
    assert (len(set(sizes)) == 1) == (bool(near) or samples % len(parts) == 0)
    if near:
        assert set(sizes) == {max(near)}


def test_the_papers_batch_is_cut_into_equal_parts_on_any_usual_number_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus in (1, 2, 4, 8, 16):
        monkeypatch.setenv("WORLD_SIZE", str(gpus))
        for limit in (100, 188, 300, 685, 4096):
            sizes = {len(part) for part in cut_micro_batches(process_share(2048), limit)}
            assert len(sizes) == 1
            assert max(sizes) > min(limit, 2048 // gpus) / 2
    assert cut_micro_batches(range(5), None) == [range(5)]


def numbers_of(loaded: Iterator[tuple[range, list[dict[str, Tensor]]]]) -> list[tuple[range, list[int], list[int]]]:
    copied = copy_ahead(loaded, copies_to(torch.device("cpu")))
    return [(samples, batch["number"].tolist(), batch["ragged"].tolist()) for samples, batch in copied]


@pytest.mark.parametrize("shared", [1 << 31, 840, 1])
def test_worker_processes_give_what_the_thread_gives_however_small_the_chunks(
    monkeypatch: pytest.MonkeyPatch, shared: int, tmp_path: Path
) -> None:
    parts = cut_micro_batches(range(2, 22), 10)
    expected = numbers_of(load_micro_batches(Numbers(), parts, 3, 6, 0, False))
    assert [samples for samples, _, _ in expected] == parts * 3
    monkeypatch.setattr(loader, "SHARED_BYTES", shared)
    assert numbers_of(load_micro_batches(Numbers(tmp_path), parts, 3, 6, 2, False)) == expected
    names = [path.name.split("-") for path in tmp_path.iterdir() if not path.name.startswith(f"{os.getpid()}-")]
    sizes = {int(stop) - int(start) for _, _, start, stop in names}
    assert len({process for process, *_ in names}) == 2
    assert max(sizes) == {1 << 31: 10, 840: 5, 1: 1}[shared]  # 24 bytes a sample, seven chunks at a time


def test_chunks_share_what_is_free_among_the_processes_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of 0.6 MB and 15 workers: 46 chunks within 2 GiB, or within half of a container's 64 MB."""
    free = {"bytes": 1 << 36}
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free["bytes"]}))
    for available, processes, most in ((1 << 36, 1, 2 << 30), (1 << 36, 8, (2 << 30) / 8), (64 << 20, 1, 32 << 20)):
        free["bytes"] = available
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        chunk = loader._chunk_samples(602_112, 15)
        assert chunk * 46 * 602_112 <= most < (chunk + 1) * 46 * 602_112
    free["bytes"] = 1 << 20
    assert loader._chunk_samples(602_112, 15) == 1


def test_workers_run_before_the_first_micro_batch_is_asked_for(tmp_path: Path) -> None:
    """So that they are started before the process group exists."""
    loaded = load_micro_batches(Numbers(tmp_path), [range(24)], 0, 50, 1, False)
    children = [path for path in Path(f"/proc/{os.getpid()}/task").glob("*/children") if path.read_text().strip()]
    assert children
    assert next(loaded)[0] == range(24)
