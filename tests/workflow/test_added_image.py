"""A data set that grows: with `assignment: hash` one image more costs its own shard, and the work on the others is put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
