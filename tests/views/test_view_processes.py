"""The same views whatever the batch, the number of processes and shards, and however often the job is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from cdgmae.runtime.interrupts import EXIT_INTERRUPTED
from cdgmae.storage.journal import LINE_SUFFIX
from tests.faults.forked import ForkedCommand
from tests.generators.conftest import KEYS, write_shard
from tests.views.test_view_sampling import pixels_of, rows_of, sample, sampling

SLOW = {"num_inference_steps": 40, "batch_size": 3}
"""So many steps that a test can act between two batches."""


def command(tar: Path, generator: Path, folder: Path, *extra: object, **changes: object) -> list[object]:
    settings = json.dumps({"kind": "s_ldm", **sampling(**changes).model_dump(mode="json")})
    return [
        "views", "make", "--settings", settings, "--shard", tar, "--input", f"generator={generator}", "--output", folder / "00000.tar",
        "--work", folder / "work-00000.tar", "--device", "cpu", "--threads", "1", *extra,
    ]  # fmt: skip


def finished_batches(folder: Path) -> int:
    """Finished batches of three views in all journals; a record lies between two line breaks."""
    journals = list((folder / "work-00000.tar").glob(f"*{LINE_SUFFIX}"))
    return sum(journal.read_bytes().count(b"\n") // 6 for journal in journals)


@pytest.fixture(scope="module")
def straight(shard_tar: Path, generator_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    sample(shard_tar, generator_dir, folder, **SLOW)
    return folder / "00000.tar"


def test_batches_of_one_three_and_eight_and_two_shards_give_the_same_views(
    shard_tar: Path, generator_dir: Path, tmp_path: Path
) -> None:
    sample(shard_tar, generator_dir, tmp_path, "3.tar", batch_size=3)
    reference, rows = pixels_of(tmp_path / "3.tar"), rows_of(tmp_path / "3.tar")
    worst = 0
    for batch_size in (1, 8):
        sample(shard_tar, generator_dir, tmp_path, f"{batch_size}.tar", batch_size=batch_size)
        found = rows_of(tmp_path / f"{batch_size}.tar")
        assert [(row.key, row.view_index, row.seed) for row in found] == [(row.key, row.view_index, row.seed) for row in rows]
        pixels = pixels_of(tmp_path / f"{batch_size}.tar")
        worst = max(worst, *(int(np.abs(pixels[item] - reference[item]).max()) for item in reference))
    halves = [write_shard(tmp_path / f"half{n}" / "00000.tar", keys) for n, keys in enumerate((KEYS[:3], KEYS[3:]))]
    both = {}
    for n, half in enumerate(halves):
        sample(half, generator_dir, tmp_path, f"half{n}.tar", batch_size=3)
        both.update({(row.key, row.view_index): row.sha256 for row in rows_of(tmp_path / f"half{n}.tar")})
    assert both == {(row.key, row.view_index): row.sha256 for row in rows}  # equal batch shape: equal bytes
    assert worst <= 2  # another batch shape: rounding, then JPEG


@pytest.mark.slow
@pytest.mark.usefixtures("forked_commands")
def test_two_processes_one_killed_and_other_sizes_end_with_the_same_views(
    shard_tar: Path, generator_dir: Path, tmp_path: Path, straight: Path
) -> None:
    child = ForkedCommand(command(shard_tar, generator_dir, tmp_path, "--runtime", '{"workers": 2}', **SLOW), tmp_path / "log")
    child.wait_until(lambda: finished_batches(tmp_path) >= 1)
    victim = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()[-1]
    os.kill(int(victim), signal.SIGKILL)
    assert child.end_with() == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "00000.tar").read_bytes() == straight.read_bytes()
    assert not (tmp_path / "work-00000.tar").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked_commands")
def test_killing_the_coordinator_ends_its_processes_and_one_process_goes_on(
    shard_tar: Path, generator_dir: Path, tmp_path: Path, straight: Path
) -> None:
    child = ForkedCommand(command(shard_tar, generator_dir, tmp_path, "--runtime", '{"workers": 2}', **SLOW), tmp_path / "log")
    child.wait_until(lambda: finished_batches(tmp_path) >= 1)
    child.end_with(signal.SIGKILL)
    result = sample(shard_tar, generator_dir, tmp_path, **SLOW)  # waits for a process that still writes
    assert 3 <= result["found_finished"] < 18
    assert (tmp_path / "00000.tar").read_bytes() == straight.read_bytes()


def test_a_signal_flushes_and_leaves_with_the_documented_code(
    shard_tar: Path, generator_dir: Path, tmp_path: Path, straight: Path
) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        before = finished_batches(tmp_path)
        child = ForkedCommand(command(shard_tar, generator_dir, tmp_path, **SLOW), tmp_path / "log")
        child.wait_until(lambda before=before: finished_batches(tmp_path) > before)
        started = time.monotonic()
        assert child.end_with(number) == EXIT_INTERRUPTED
        assert time.monotonic() - started < 30
        assert finished_batches(tmp_path) > before
    assert "of 18 views are kept (SIGUSR1)" in (tmp_path / "log").read_text()
    result = sample(shard_tar, generator_dir, tmp_path, **{**SLOW, "batch_size": 5})
    assert result["found_finished"] >= 6
    found, reference = rows_of(tmp_path / "00000.tar"), rows_of(straight)
    assert [(row.key, row.view_index, row.seed) for row in found] == [(row.key, row.view_index, row.seed) for row in reference]
    pixels, wanted = pixels_of(tmp_path / "00000.tar"), pixels_of(straight)
    assert max(np.abs(pixels[item] - wanted[item]).max() for item in wanted) <= 2


@pytest.mark.slow
@pytest.mark.usefixtures("forked_commands")
def test_a_signal_to_two_processes_flushes_and_leaves_with_the_documented_code(
    shard_tar: Path, generator_dir: Path, tmp_path: Path, straight: Path
) -> None:
    child = ForkedCommand(command(shard_tar, generator_dir, tmp_path, "--runtime", '{"workers": 2}', **SLOW), tmp_path / "log")
    child.wait_until(lambda: finished_batches(tmp_path) >= 1)
    assert child.end_with(signal.SIGTERM) == EXIT_INTERRUPTED
    assert sample(shard_tar, generator_dir, tmp_path, **SLOW)["found_finished"] >= 3
    assert (tmp_path / "00000.tar").read_bytes() == straight.read_bytes()
