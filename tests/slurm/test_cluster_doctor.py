"""`cdgmae doctor --cluster`: one job per resource class, on a real Slurm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

PROFILE = """
executor: slurm
default-resources: {slurm_partition: cpu, mem_mb: 1000 * attempt, runtime: 30}
set-resources:
  same: {runtime: 600}
  one_gpu: {slurm_partition: gpu, gres: "gpu:1", mem: 2GB}
  two_nodes: {slurm_partition: gpu, mpi: srun, nodes: 2, tasks: 2, slurm_extra: "'--ntasks-per-node=1 --signal=USR1@600'"}
  wrong: {slurm_partition: nowhere}
  too_late: {slurm_extra: "'--begin=now+3600'"}
"""


def test_each_class_is_tried_once_and_its_problems_are_told(cluster: VirtualCluster, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(PROFILE)
    command = [sys.executable, "-m", "cdgmae.cli", "doctor", "--cluster", "--profile", str(tmp_path), "--folder", str(tmp_path)]
    done = subprocess.run(
        [*command, "--wait", "0.5", "--json"], cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    classes: dict[str, dict[str, Any]] = {found["rules"][0]: found for found in result["classes"]}
    assert {name: found["rules"] for name, found in classes.items()} == {
        "default-resources": ["default-resources", "same"],
        "one_gpu": ["one_gpu"],
        "two_nodes": ["two_nodes"],
        "wrong": ["wrong"],
        "too_late": ["too_late"],
    }
    plain = classes["default-resources"]
    assert plain["problems"] == []
    (task,) = plain["tasks"]
    assert task["node"].startswith("n")
    assert task["job_memory_mib"] == 1000
    assert task["write_mb_per_s"] > 0
    assert task["torch"]

    (problem,) = classes["one_gpu"]["problems"]  # the cluster's GPUs are made up
    assert "torch" in problem
    assert "sees none" in problem

    pair = classes["two_nodes"]
    assert pair["problems"] == []
    assert [task["rendezvous"].split(" in ")[0] for task in pair["tasks"]] == ["gloo, 2 tasks"] * 2
    assert len({task["node"] for task in pair["tasks"]}) == 2

    assert "invalid partition" in classes["wrong"]["problems"][0]
    assert "still PENDING (BeginTime)" in classes["too_late"]["problems"][0]
    assert classes["too_late"]["job"] not in cluster.queue()
    assert Path(result["logs"]).is_dir()
