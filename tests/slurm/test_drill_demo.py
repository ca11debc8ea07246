"""The shipped profile on clusters without and with accounting: the whole workflow, and its part up to a training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.slurm.drill_place import DrillPlace, write_profile
from tests.slurm.virtual_cluster import VirtualCluster
from tests.warm_start import warm_programs
from tests.workflow.conftest import tiny_config

pytestmark = pytest.mark.slow

# As the profile says, but so many at a time as two cores can bear.
AT_A_TIME = 4


def write_demo(place: DrillPlace) -> None:
    """The tiny demo and the shipped profile; the cluster's GPUs are made up, and a job that is given one would look for it."""
    config = tiny_config()
    config["runtime"]["device"] = "cpu"
    (place.folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_profile(place.folder / "profile", {}, jobs=AT_A_TIME)


def slurm_jobs(place: DrillPlace) -> int:
    """How many jobs were submitted; each left its log."""
    return len(list((place.folder / ".snakemake/slurm_logs").rglob("*.log")))


def test_the_demo_without_accounting(cluster: VirtualCluster, tmp_path: Path) -> None:
    place = DrillPlace(cluster, tmp_path, warm_programs() / "python")
    write_demo(place)
    controller = place.start("all")
    assert controller.wait(900) == 0, controller.output()
    assert (place.folder / "results/report/index.html").is_file()
    summary = pd.read_csv(place.folder / "results/propagation/summary.csv")
    assert set(summary["encoder"]) == {"random", "crops", "cdg"}
    assert 15 < slurm_jobs(place) < 30


def test_jobs_on_cpus_and_gpus_with_accounting(accounting_cluster: VirtualCluster, tmp_path: Path) -> None:
    place = DrillPlace(accounting_cluster, tmp_path, warm_programs() / "python")
    write_demo(place)
    controller = place.start("results/pretrain/crops/seed0/encoder.safetensors")
    assert controller.wait(600) == 0, controller.output()
    states = accounting_cluster.call(
        "sacct", "--allusers", "--allocations", "--noheader", "--parsable2", "--format=State,Account"
    )
    assert set(states.split()) == {"COMPLETED|default"}
    assert len(states.split()) == slurm_jobs(place) == 6
