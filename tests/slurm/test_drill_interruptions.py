"""Drill 1: a time limit that is too short, USR1, and preemption, while views are sampled and while a network is trained."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.slurm.drill_place import TRAINING, VIEWS, DrillPlace, Watch, copy_place, steps_taken, training_rows, write_profile
from tests.slurm.kept_process import wait_until
from tests.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.slow

# Preemptible; each job fills a node, so that it can be preempted alone. No signal ahead of the limit: a command knows its limit.
SMALL = {"slurm_partition": "low", "mem_mb": "3000 * min(attempt, 2)", "runtime": 60, "cpus_per_task": 8, "slurm_extra": ""}


def wait_for_another_try(watch: Watch, earlier: int) -> int:
    """Wait until a try after so many `earlier` ones has finished some rows or steps.

    Returns:
        How many tries there are now.
    """

    def is_at_work() -> bool:
        logs = watch.logs()
        return len(logs) > earlier and re.search(r" [1-9]\d*/\d+ (rows|steps)", logs[-1]) is not None

    wait_until(is_at_work, 180, f"nothing is done: {watch.logs()}")
    return len(watch.logs())


def come_to_the_limit(place: DrillPlace, rule: str) -> None:
    """The limit comes soon: the command, which reads it when it starts, stops by itself and goes on in the same job.

    On a busy machine the limit may come before the work begins; the controller then submits another job, which gets more time.
    """
    for seconds in (8, 16, 32, 64):
        job = place.job(rule)
        end = (datetime.now() + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        place.cluster.call("scontrol", "update", f"JobId={job}", f"EndTime={end}")
        wait_until(lambda: place.cluster.job(job)["JobState"] in ("PENDING", "TIMEOUT"), 150, "the limit changes nothing")  # noqa: B023
        if place.cluster.job(job)["JobState"] == "PENDING":
            place.cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
            return
    raise AssertionError("the work does not begin")


def send_signal(place: DrillPlace, rule: str) -> None:
    place.cluster.call("scancel", "--signal=USR1", place.job(rule))


def preempt(place: DrillPlace, rule: str) -> None:
    node = place.cluster.job(place.job(rule))["BatchHost"]
    place.cluster.call("sbatch", "--partition=high", f"--nodelist={node}", "--exclusive", "--mem=1000", "--wrap", "sleep 15")


def disturb(place: DrillPlace, rule: str, watch: Watch) -> None:
    come_to_the_limit(place, rule)
    tries = wait_for_another_try(watch, len(watch.logs()))
    send_signal(place, rule)
    tries = wait_for_another_try(watch, tries)
    preempt(place, rule)
    wait_for_another_try(watch, tries)


def test_work_is_done_once_whatever_interrupts_it(
    cluster: VirtualCluster, undisturbed: Path, prepared: Path, tmp_path: Path
) -> None:
    place = copy_place(cluster, prepared, tmp_path / "place", warm=True)
    rules, results = ("make_views", "pretrain_encoder"), (VIEWS[0], f"{TRAINING}/encoder.safetensors")
    write_profile(place.folder / "profile", dict.fromkeys(rules, SMALL), retries=6)
    with Watch(place, rules[0]) as views, Watch(place, rules[1]) as training, ThreadPoolExecutor(2) as threads:
        controller = place.start(*results)
        for ended in [threads.submit(disturb, place, *pair) for pair in zip(rules, (views, training), strict=True)]:
            ended.result()
        assert controller.wait(240) == 0, controller.output()

    for watch in (views, training):
        reasons = re.findall(r"\((time limit|SIG\w+)\)", "".join(watch.logs()))
        assert "time limit, SIGUSR1" in ", ".join(reasons)
    made = views.views()
    assert set(made.values()) == {1}
    assert len(made) == 12 * 3
    for name in results:
        assert (place.folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert training_rows(place.folder / TRAINING) == training_rows(undisturbed / TRAINING)
    assert set(steps_taken(place.folder).values()) == {1}
