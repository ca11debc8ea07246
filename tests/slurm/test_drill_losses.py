"""Drills 2 and 3: nodes, the controller, and jobs on a partition with PreemptMode=CANCEL die, while views are sampled and a network is trained."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.slurm.drill_place import TRAINING, VIEWS, DrillPlace, Watch, copy_place, training_rows, write_profile
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


def lose_a_node(place: DrillPlace, rule: str, shard: str = "") -> None:
    """Kill the node on which a job of a rule runs, and wait until Slurm has started the job again on another."""
    cluster, job = place.cluster, place.job(rule, shard)
    lost = cluster.job(job)["BatchHost"]
    cluster.kill_node(lost)

    def runs_elsewhere() -> bool:
        result = cluster.job(job)
        return result["JobState"] == "RUNNING" and result["BatchHost"] != lost

    wait_until(runs_elsewhere, 120, f"job {job} does not start again")


def test_a_lost_node_and_a_lost_controller_cost_nothing(
    cluster: VirtualCluster, undisturbed: Path, prepared: Path, tmp_path: Path
) -> None:
    place = copy_place(cluster, prepared, tmp_path / "place", warm=True)
    write_profile(place.folder / "profile", {"make_views": WHOLE_NODE})
    with Watch(place, "make_views") as views:
        first = place.start(*VIEWS)
        wait_for_more_views(views)
        lose_a_node(place, "make_views", "00000")
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
    assert len(made) == 24 * 3
    for name in VIEWS:
        assert (place.folder / name).read_bytes() == (undisturbed / name).read_bytes()


def wait_for_more_steps(watch: Watch, tries: int) -> int:
    """Wait until a try after so many earlier ones has taken steps.

    Returns:
        How many tries there are now.
    """
    wait_until(
        lambda: len(watch.logs()) > tries and re.search(r" [1-9]\d*/\d+ steps", watch.logs()[-1]) is not None,
        180, f"no more steps: {watch.logs()}",
    )  # fmt: skip
    return len(watch.logs())


def test_a_training_survives_preemption_that_cancels_and_a_lost_node(
    cluster: VirtualCluster, undisturbed: Path, prepared: Path, tmp_path: Path
) -> None:
    place = copy_place(cluster, prepared, tmp_path / "place", warm=True)
    write_profile(place.folder / "profile", {"pretrain_encoder": WHOLE_NODE | {"slurm_partition": "lowcancel"}})
    rule, encoder = "pretrain_encoder", f"{TRAINING}/encoder.safetensors"
    with Watch(place, rule) as training:
        controller = place.start(encoder)
        tries = 0
        for grace in (10, 0):  # seconds to save the state; none: what was not saved is done again
            cluster.call("scontrol", "update", "PartitionName=lowcancel", f"GraceTime={grace}")
            tries = wait_for_more_steps(training, tries)
            job = place.job(rule)
            node = cluster.job(job)["BatchHost"]
            cluster.call("sbatch", "--partition=high", f"--nodelist={node}", "--exclusive", "--mem=1000", "--wrap", "sleep 1")
            wait_until(lambda: cluster.job(job)["JobState"] != "RUNNING", 60, "the job is not preempted")  # noqa: B023
        wait_until(lambda: cluster.job(job)["JobState"] == "PREEMPTED", 60, "the job does not end")
        tries = wait_for_more_steps(training, tries)
        lose_a_node(place, rule)
        assert controller.wait(300) == 0, controller.output()
    assert "PREEMPTED" not in controller.output()
    assert sum("going on after step" in log for log in training.logs()) >= 2, training.logs()
    assert (place.folder / encoder).read_bytes() == (undisturbed / encoder).read_bytes()
    assert training_rows(place.folder / TRAINING) == training_rows(undisturbed / TRAINING)
