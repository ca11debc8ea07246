"""A scoring job that is killed or asked to stop goes on from its finished parts and ends with the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.runtime.interrupts import Interrupted
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.journal import JournalWriter, NewRecord
from cdgmae.storage.media.images import NAMED_FORMATS
from tests.consistency.drawn_bags import SIZE, TINY_VIT, bags, write_shard
from tests.faults.forked import ForkedCommand

ON_CPU = RuntimeSettings(device="cpu")

NUM_BAGS, NUM_VIEWS = 60, 3
SETTINGS = ScoringSettings(image_size=SIZE, batch_size=2, max_bad_fraction=0.1, nearest_bags=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real and view shards with one corrupt and one missing view."""
    folder = tmp_path_factory.mktemp("shards")
    real, views = bags(NUM_BAGS, NUM_VIEWS)
    views["k7", 2], views["k9", 1] = b"no image", "generation failed: not finite"
    write_shard(folder / "real" / "00000.tar", real)
    write_shard(folder / "views" / "00000.tar", views)
    return folder


def score(shards: Path, output: Path, runtime: RuntimeSettings = ON_CPU) -> dict[str, Any]:
    tars = [shards / name / "00000.tar" for name in ("real", "views")]
    work = output.parent / "work"
    return score_shard(SETTINGS, *tars, parse_encoder(TINY_VIT), output, source="s_ldm", runtime=runtime, work_dir=work)


def kill_after_parts(shards: Path, output: Path, count: int) -> None:
    """Start a job of its own, and kill it as soon as it has finished `count` parts."""
    command = [
        "consistency", "score", "--real", shards / "real" / "00000.tar", "--views", shards / "views" / "00000.tar",
        "--encoder", TINY_VIT, "--source", "s_ldm", "--output", output, "--work", output.parent / "work",
        "--settings", SETTINGS.canonical_json(), "--threads", "1", "--device", "cpu",
    ]  # fmt: skip
    process = ForkedCommand(command, output.parents[1] / "log")
    process.wait_until(lambda: finished_parts(output) >= count)
    assert process.end_with(signal.SIGKILL) == -signal.SIGKILL


def finished_parts(output: Path) -> int:
    """A record lies between two line breaks."""
    journal = output.parent / "work/000.jsonl"
    return journal.read_bytes().count(b"\n") // 2 if journal.is_file() else 0


@pytest.mark.slow
def test_killed_and_stopped_jobs_end_with_the_table_of_a_straight_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight" / "00000.parquet", tmp_path / "broken" / "00000.parquet"
    score(shards, straight)
    kill_after_parts(shards, broken, 3)
    killed = finished_parts(broken)
    assert 3 <= killed < NUM_BAGS // 4

    append = JournalWriter.append

    def append_and_be_told_to_stop(journal: JournalWriter, records: Sequence[NewRecord]) -> None:
        append(journal, records)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(JournalWriter, "append", append_and_be_told_to_stop)
    with pytest.raises(Interrupted, match=rf"{(killed + 1) * 12} of 180 pairs are kept \(SIGTERM\)"):
        score(shards, broken)
    monkeypatch.undo()
    assert finished_parts(broken) == killed + 1
    assert not broken.exists()

    data = broken.parent / "work/000.bin"
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    data.write_bytes(damaged)
    assert score(shards, broken)["found_finished"] == killed * 4 * NUM_VIEWS
    assert broken.read_bytes() == straight.read_bytes()
    assert not (broken.parent / "work").exists()
    rows = {(row["key"], row["view_b"]): row for row in pq.read_table(broken).to_pylist()}
    assert len(rows) == NUM_BAGS * NUM_VIEWS
    assert rows["k7", 2]["reason"] == f"view: not an image of a known format ({NAMED_FORMATS})"
    assert rows["k9", 1]["reason"] == "view: generation failed: not finite"


@pytest.mark.usefixtures("forked_commands")
def test_two_processes_end_with_the_table_of_one_whatever_is_damaged_between(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight, shared = tmp_path / "straight" / "00000.parquet", tmp_path / "shared" / "00000.parquet"
    score(shards, straight, RuntimeSettings(device="cpu", threads=1))
    kill_after_parts(shards, shared, 3)
    kept = finished_parts(shared)
    journal = shared.parent / "work/000.jsonl"
    lines = bytearray(journal.read_bytes())
    lines[len(lines) // 2] ^= 64
    journal.write_bytes(lines)
    two = RuntimeSettings(device="cpu", threads=2, workers=2)
    assert score(shards, shared, two)["found_finished"] == (kept - 1) * 4 * NUM_VIEWS
    assert f"{journal}: a damaged or half-written record" in caplog.text
    assert shared.read_bytes() == straight.read_bytes()
