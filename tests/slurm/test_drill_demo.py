"""The whole workflow through the shipped profile, on clusters without and with accounting."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.slurm.drill_place import DrillPlace, copy_place, write_profile
from tests.slurm.virtual_cluster import VirtualCluster
from tests.workflow.conftest import tiny_config

pytestmark = pytest.mark.slow

# As the profile says, but so many at a time as two cores can bear.
AT_A_TIME = 4


def slurm_jobs(place: DrillPlace) -> int:
    """How many jobs were submitted; each left its log."""
    return len(list((place.folder / ".snakemake/slurm_logs").rglob("*.log")))


def test_the_demo_without_accounting(cluster: VirtualCluster, tmp_path: Path) -> None:
    place = DrillPlace(cluster, tmp_path)
    config = tiny_config()
    (place.folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_profile(place.folder / "profile", {}, jobs=AT_A_TIME)
    controller = place.start("all")
    assert controller.wait(900) == 0, controller.output()
    assert (place.folder / "results/report/index.html").is_file()
    summary = pd.read_csv(place.folder / "results/propagation/summary.csv")
    assert set(summary["encoder"]) == {"random", "crops", "cdg"}
    assert 15 < slurm_jobs(place) < 30


def test_a_small_workflow_with_accounting(accounting_cluster: VirtualCluster, prepared: Path, tmp_path: Path) -> None:
    place = copy_place(accounting_cluster, prepared, tmp_path / "place")
    for made in ("results", "data", "logs", "work"):
        shutil.rmtree(place.folder / made, ignore_errors=True)
    config = yaml.safe_load((place.folder / "config.yaml").read_text())
    config["pretrain"]["runs"] = {"crops": config["pretrain"]["runs"]["crops"]}
    config["views"]["sources"]["tiny"]["sampling"]["num_inference_steps"] = 2
    (place.folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_profile(place.folder / "profile", {}, jobs=AT_A_TIME)
    controller = place.start("all")
    assert controller.wait(600) == 0, controller.output()
    assert (place.folder / "results/report/index.html").is_file()
    states = accounting_cluster.call(
        "sacct", "--allusers", "--allocations", "--noheader", "--parsable2", "--format=State,Account"
    )
    assert set(states.split()) == {"COMPLETED|default"}
    assert len(states.split()) == slurm_jobs(place) == 11
