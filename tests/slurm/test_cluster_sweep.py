"""`cdgmae cluster sweep` and the shipped profile, with real controllers on a real Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.virtual_cluster import VirtualCluster
from tests.warm_start import warm_programs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROFILE = ("--workflow-profile", str(ROOT / "workflow/profiles/slurm"))

# A rule whose name has resources in the profile: it asks for a GPU.
SNAKEFILE = """
rule score_views:
    output: "done.txt"
    shell: "until [ -e go ]; do sleep 0.3; done; echo $CUDA_VISIBLE_DEVICES > {output}"
"""


def start_snakemake(cluster: VirtualCluster, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "Snakefile").write_text(SNAKEFILE)
    command = [
        str(warm_programs() / "snakemake"), *PROFILE, "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5",
    ]  # fmt: skip
    with (folder / "out.txt").open("wb") as out:
        return subprocess.Popen(command, cwd=folder, env=cluster.environment, stdout=out, stderr=out)


def sweep(cluster: VirtualCluster, folder: Path, *options: str) -> dict[str, Any]:
    text = cluster.call(
        str(warm_programs() / "cdgmae"), "cluster", "sweep", "--folder", str(folder), "--json", *options, cwd=ROOT
    )
    result: dict[str, Any] = json.loads(text.splitlines()[-1])
    return result


def wait_for(what: Any, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_only_jobs_of_a_dead_controller_are_cancelled_and_both_workflows_end_well(
    cluster: VirtualCluster, tmp_path: Path
) -> None:
    dead, alive = tmp_path / "dead", tmp_path / "alive"
    controllers = [start_snakemake(cluster, folder) for folder in (dead, alive)]
    try:
        plain = ("sbatch", "--parsable", "--mem=100", "--wrap", "sleep 300")
        foreign = cluster.call(*plain, "--job-name", f"cdgmae_{uuid.uuid4()}", cwd=tmp_path).strip()
        own = cluster.call(*plain, cwd=dead).strip()
        wait_for(lambda: len(cluster.queue()) == 4)
        assert [run["controller"] for run in sweep(cluster, dead)["runs"]] == ["alive"]
        os.kill(controllers[0].pid, signal.SIGKILL)
        controllers[0].wait()

        found = sweep(cluster, dead)
        assert [run["controller"] for run in found["runs"]] == ["dead"]
        (leftover,) = found["leftover"]
        assert leftover["what"] == "rule_score_views"
        assert leftover["job"] not in (foreign, own)
        assert sweep(cluster, dead, "--cancel", "--older-than", "60")["cancelled"] == []
        assert sweep(cluster, alive, "--cancel")["cancelled"] == []

        log = Path(found["runs"][0]["log"])
        text = log.read_text()
        log.write_text(text.replace("  Host: ", "  Host: not-"))
        assert [run["controller"] for run in sweep(cluster, dead, "--cancel")["runs"]] == ["elsewhere"]
        log.write_text(text.replace("SLURM run ID", "run"))
        assert [run["controller"] for run in sweep(cluster, dead, "--cancel")["runs"]] == ["unknown"]
        assert len(cluster.queue()) == 4
        log.write_text(text)

        ended = sweep(cluster, dead, "--cancel")
        assert (ended["cancelled"], ended["still_there"]) == ([leftover["job"]], [])
        assert len(cluster.queue()) == 3
        assert {foreign, own} <= cluster.queue().keys()

        cluster.call(str(warm_programs() / "snakemake"), *PROFILE, "--unlock", cwd=dead)
        controllers.append(start_snakemake(cluster, dead))
        for folder in (dead, alive):
            (folder / "go").touch()
        for folder, controller in zip((alive, dead), controllers[1:], strict=True):
            assert controller.wait(120) == 0, (folder / "out.txt").read_text()
            assert (folder / "done.txt").read_text().strip() in ("0", "1")  # the number of the GPU that the job was given
            assert list((folder / ".snakemake/slurm_logs").rglob("*.log"))  # kept after success
    finally:
        for controller in controllers:
            controller.kill()
        for job in cluster.queue():
            cluster.call("scancel", "--quiet", job)
