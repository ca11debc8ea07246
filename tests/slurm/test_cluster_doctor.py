"""`cdgmae doctor --cluster`: one job per resource class, on a real Slurm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interchange.fake_hub import NETWORK, fake_hub
from tests.slurm.virtual_cluster import VirtualCluster
from tests.warm_start import warm_programs

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
  refused: {mpi: srun}
"""

NEVER_STARTS = """
executor: slurm
default-resources: {slurm_partition: cpu, mem_mb: 1000, slurm_extra: "'--begin=now+3600'"}
"""


def doctor(cluster: VirtualCluster, folder: Path, profile: str, *options: str) -> dict[str, Any]:
    (folder / "profile").mkdir()
    (folder / "profile/config.yaml").write_text(profile)
    command = [
        str(warm_programs() / "cdgmae"), "doctor", "--cluster", "--profile", str(folder / "profile"), "--folder", str(folder),
    ]  # fmt: skip
    done = subprocess.run(
        [*command, "--json", *options], cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 1, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_each_class_is_tried_once_and_its_problems_are_told(cluster: VirtualCluster, tmp_path: Path) -> None:
    result = doctor(cluster, tmp_path, PROFILE)
    classes: dict[str, dict[str, Any]] = {found["rules"][0]: found for found in result["classes"]}
    assert {name: found["rules"] for name, found in classes.items()} == {
        "default-resources": ["default-resources", "same"],
        "one_gpu": ["one_gpu"],
        "two_nodes": ["two_nodes"],
        "wrong": ["wrong"],
        "refused": ["refused"],
    }
    plain = classes["default-resources"]
    assert plain["problems"] == []
    (task,) = plain["tasks"]
    assert task["node"].startswith("n")
    assert task["job_memory_mib"] == 1000
    assert task["write_mb_per_s"] > 0
    assert task["torch"]

    if not torch.cuda.is_available():  # the cluster's GPUs are made up
        (problem,) = classes["one_gpu"]["problems"]
        assert "Slurm gave this job a GPU" in problem
        assert "sees none" in problem

    pair = classes["two_nodes"]
    assert pair["problems"] == []
    assert [task["rendezvous"].split(" in ")[0] for task in pair["tasks"]] == ["gloo, 2 tasks"] * 2
    assert len({task["node"] for task in pair["tasks"]}) == 2

    assert "invalid partition" in classes["wrong"]["problems"][0]
    assert "the executor refuses the resources of refused" in classes["refused"]["problems"][0]
    assert Path(result["logs"]).is_dir()


def test_a_job_that_does_not_start_is_cancelled_after_the_wait(cluster: VirtualCluster, tmp_path: Path) -> None:
    (found,) = doctor(cluster, tmp_path, NEVER_STARTS, "--wait", "0.02")["classes"]
    assert "still PENDING (BeginTime) after 0.02 min and was cancelled" in found["problems"][0]
    assert found["job"] not in cluster.queue()


def test_networks_that_the_configuration_names_are_tried_on_a_node_without_network(
    cluster: VirtualCluster, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text(
        "executor: slurm\ndefault-resources: {slurm_partition: cpu, mem_mb: 2000, runtime: 5}\n"
    )
    encoders = {"here": {"timm": NETWORK}, "missing": {"timm": "vit_base_patch16_224.mae"}}
    config, program = tmp_path / "config.yaml", (sys.executable, "-m", "cdgmae")  # the hub's variables are read at its import
    with fake_hub(tmp_path / "files") as (address, _):
        environment = cluster.environment | {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": address}
        for names in (["here"], ["here", "missing"]):
            named = {name: encoders[name] for name in names}
            config.write_text(json.dumps({"propagation": {"datasets": {"davis": {"root": "davis"}}, "encoders": named}}))
            if names == ["here"]:
                cluster.call(*program, "fetch", cwd=tmp_path, environment=environment)
            command = [*program, "doctor", "--cluster", "--profile", "profile", "--json"]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
            (found,) = json.loads(done.stdout.splitlines()[-1])["classes"]
            assert found["tasks"][0]["networks"] == NETWORK
            assert done.returncode == len(found["problems"]) == len(names) - 1, done.stdout + done.stderr
    (problem,) = found["problems"]
    assert "propagation.encoders.missing: encoder 'vit_base_patch16_224.mae'" in problem
    assert "cdgmae fetch" in problem, problem
