"""A scoring job that is killed or asked to stop goes on from its finished parts and ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdgmae.consistency.scoring.partial_scores import PartFolder
from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.runtime.interrupts import Interrupted
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.media.images import NAMED_FORMATS
from tests.consistency.drawn_bags import SIZE, TINY_VIT, bags, write_shard

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


def score(shards: Path, output: Path) -> dict[str, Any]:
    tars = [shards / name / "00000.tar" for name in ("real", "views")]
    work = output.parent / "work"
    return score_shard(SETTINGS, *tars, parse_encoder(TINY_VIT), output, source="s_ldm", runtime=ON_CPU, work_dir=work)


def kill_after_parts(shards: Path, output: Path, count: int) -> None:
    """Start a job of its own, and kill it as soon as it has finished `count` parts."""
    command = [
        sys.executable, "-m", "cdgmae.cli", "consistency", "score", "--real", str(shards / "real" / "00000.tar"),
        "--views", str(shards / "views" / "00000.tar"), "--encoder", TINY_VIT, "--source", "s_ldm", "--output", str(output),
        "--work", str(output.parent / "work"), "--settings", SETTINGS.canonical_json(), "--threads", "1", "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(parts_of(output)) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL


def parts_of(output: Path) -> list[Path]:
    return sorted((output.parent / "work").glob("0*.parquet"))


@pytest.mark.slow
def test_killed_and_stopped_jobs_end_with_the_table_of_a_straight_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight" / "00000.parquet", tmp_path / "broken" / "00000.parquet"
    score(shards, straight)
    kill_after_parts(shards, broken, 3)
    killed = len(parts_of(broken))
    assert 3 <= killed < NUM_BAGS // 4

    write = PartFolder.write

    def write_and_be_told_to_stop(folder: PartFolder, number: int, table: pa.Table) -> None:
        write(folder, number, table)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PartFolder, "write", write_and_be_told_to_stop)
    with pytest.raises(Interrupted, match=rf"{(killed + 1) * 12} of 180 pairs are kept \(SIGTERM\)"):
        score(shards, broken)
    monkeypatch.undo()
    assert len(parts_of(broken)) == killed + 1
    assert not broken.exists()

    (broken.parent / "work" / "000001.parquet").write_bytes(b"torn")
    assert score(shards, broken)["found_finished"] == killed * 4 * NUM_VIEWS
    assert broken.read_bytes() == straight.read_bytes()
    assert not (broken.parent / "work").exists()
    rows = {(row["key"], row["view_b"]): row for row in pq.read_table(broken).to_pylist()}
    assert len(rows) == NUM_BAGS * NUM_VIEWS
    assert rows["k7", 2]["reason"] == f"view: not an image of a known format ({NAMED_FORMATS})"
    assert rows["k9", 1]["reason"] == "view: generation failed: not finite"
