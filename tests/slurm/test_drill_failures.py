"""Drill 2 and more: too little memory, a cancelled job, and a fault that no retry cures, in one run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from cdgmae.settings.runtime import FAILS_AGAIN
from tests.slurm.drill_place import copy_place, write_profile
from tests.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.slow

RETRIES = 1
SOURCES = ("cancelled", "starved", "broken")


def view_shard(source: str) -> str:
    return f"results/views/{source}/00000.tar"


def test_each_failure_ends_as_it_should(cluster: VirtualCluster, prepared: Path, tmp_path: Path) -> None:
    place = copy_place(cluster, prepared, tmp_path / "place")
    views = yaml.safe_load((place.folder / "config.yaml").read_text())["views"]
    few = views["sources"]["tiny"] | {"sampling": {"num_views": 1, "num_inference_steps": 5, "batch_size": 24}}
    place.set_config(
        views={
            "generators": views["generators"] | {"broken": {"path": "broken"}},
            "sources": views["sources"] | dict.fromkeys(SOURCES, few) | {"broken": few | {"generator": "broken"}},
        }
    )
    shutil.copytree(place.folder / "generator", place.folder / "broken")
    for weights in (place.folder / "broken").rglob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    # Sampling and what surrounds it take some 800 MB.
    memory = {"mem_mb": "(500 if wildcards.source == 'starved' else 3000) * min(attempt, 2)", "runtime": 60}
    write_profile(place.folder / "profile", {"make_views": memory}, retries=RETRIES)

    controller = place.start(*map(view_shard, SOURCES))
    cancelled = place.job("make_views_wildcards_cancelled")
    cluster.call("scancel", cancelled)
    status = cluster.call(sys.executable, "-m", "cdgmae", "status", "--config", "config.yaml", "--json", cwd=place.folder)
    assert "make_views broken_00000" in {job["what"] for job in json.loads(status)["queue"]}
    assert controller.wait(240) == 1
    text = controller.output()

    assert (place.folder / view_shard("cancelled")).is_file(), text
    assert place.tries("make_views/cancelled") == 2
    assert cluster.job(cancelled)["JobState"] == "CANCELLED"

    assert (place.folder / view_shard("starved")).is_file(), text
    assert place.tries("make_views/starved") == 2
    assert "oom-kill" in text or not cluster.control_groups

    assert not (place.folder / view_shard("broken")).exists()
    assert place.tries("make_views/broken") == 1
    log = "logs/make_views/broken/00000.log"
    assert log in text  # where it is, and what it says
    assert "error: " in text
    assert FAILS_AGAIN in (place.folder / log).read_text().splitlines()  # before what Slurm adds
    assert FAILS_AGAIN in text
    assert len(text[text.index("Error in rule make_views") :].split("[", 1)[0].splitlines()) < 60
    assert cluster.queue() == {}
