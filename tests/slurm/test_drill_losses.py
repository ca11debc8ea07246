"""Drills 2 and 3: a node dies, then the controller dies, while views are sampled: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.slurm.drill_place import VIEWS, DrillPlace, Watch, copy_place, write_profile
from tests.slurm.kept_process import wait_until
from tests.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.slow

# Each job fills a node, so that only one of two loses its own.
WHOLE_NODE = {"mem_mb": "3000 * min(attempt, 2)", "runtime": 60, "cpus_per_task": 8}


def wait_for_more_views(watch: Watch) -> None:
    """Wait until another batch of shard 00000 is finished."""

    def finished() -> int:
        return len(re.findall(r"views 00000: [1-9]\d*/", "".join(watch.logs())))

    before = finished()
    wait_until(lambda: finished() > before, 120, f"no more views: {watch.logs()}")


def lose_a_node(place: DrillPlace) -> None:
    """Kill the node on which shard 00000 is made, and wait until Slurm has started the job again on another."""
    cluster, job = place.cluster, place.job("make_views", "00000")
    lost = cluster.job(job)["BatchHost"]
    cluster.kill_node(lost)

    def runs_elsewhere() -> bool:
        facts = cluster.job(job)
        return facts["JobState"] == "RUNNING" and facts["BatchHost"] != lost

    wait_until(runs_elsewhere, 120, f"job {job} does not start again")


def test_a_lost_node_and_a_lost_controller_cost_nothing(
    cluster: VirtualCluster, undisturbed: Path, prepared: Path, tmp_path: Path
) -> None:
    place = copy_place(cluster, prepared, tmp_path / "place")
    write_profile(place.folder / "profile", {"make_views": WHOLE_NODE})
    with Watch(place, "make_views") as views:
        first = place.start(*VIEWS)
        wait_for_more_views(views)
        lose_a_node(place)
        wait_for_more_views(views)

        os.kill(first.pid, signal.SIGKILL)
        first.wait(20)
        assert "RUNNING" in cluster.queue().values()
        wait_for_more_views(views)  # the jobs go on alone

        second = place.start(*VIEWS)
        assert second.wait(300) == 0, second.output()
    assert re.search(r"Cancelled [12] job\(s\) of a snakemake that is gone", second.output())
    made = views.views()
    assert set(made.values()) == {1}
    assert len(made) == 24 * 4
    for name in VIEWS:
        assert (place.folder / name).read_bytes() == (undisturbed / name).read_bytes()
