"""What one changed file of a data set costs: with `assignment: hash` an image more its own shard, a damaged manifest no shard at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdgmae.storage.verify import verify_paths
from tests.workflow.conftest import Workplace

pytestmark = pytest.mark.slow

SHARDS = 3
CONFIG: dict[str, Any] = {
    "shards": {"datasets": {"photos": {"path": "photos", "num_shards": SHARDS, "assignment": "hash"}}},
    "views": {"sources": {"crops": {"kind": "crops", "dataset": "photos"}}},
    "consistency": {"sources": ["crops"], "encoder": {"pixels": 8}, "image_size": 32},
    "runtime": {"device": "cpu", "threads": 1},
}


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_one_image_more_costs_the_scores_of_one_shard(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    place.write_config(CONFIG)
    for number in range(12):
        draw(tmp_path / f"photos/{number}.png", number)
    done = place.run("consistency")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    draw(tmp_path / "photos/new.png", 99)
    done = place.run("consistency")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    logs = [(tmp_path / f"logs/score_views/crops/{number:05d}.log").read_text() for number in range(SHARDS)]
    slurm = done.stdout + done.stderr
    restored = slurm.count("was finished before: it is put back") + sum("was finished before" in log for log in logs)
    assert restored == SHARDS - 1


def test_shards_that_a_failed_job_lost_come_back_as_they_were(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    place.write_config(CONFIG)
    for number in range(12):
        draw(tmp_path / f"photos/{number}.png", number)
    folder = tmp_path / "results/shards/photos"
    assert place.run("shards").returncode == 0
    files = [*folder.glob("0*.tar"), *folder.glob("0*.parquet")]
    before = {file: file.read_bytes() for file in files}
    assert len(before) == 2 * SHARDS
    assert all(file.stat().st_nlink == 2 for file in files)  # kept without a second copy of their bytes
    manifest = folder / "manifest.parquet"
    manifest.write_bytes(manifest.read_bytes()[:-8] + bytes(8))
    os.utime(manifest, (1, 1))  # of equal size and older than its record: no plan compares its bytes
    done = place.run("shards", "--forcerun", "write_shard", "--keep-going")
    assert done.returncode != 0
    assert not any(file.exists() for file in files)
    os.utime(manifest)
    done = place.run("shards")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    logs = [(tmp_path / f"logs/write_shard/photos/{number:05d}.log").read_text() for number in range(SHARDS)]
    said = done.stdout + done.stderr + "".join(logs)
    assert said.count("was finished before: it is put back") == SHARDS
    assert {file: file.read_bytes() for file in files} == before
    assert all(found.ok and found.recorded for found in verify_paths([folder]))
