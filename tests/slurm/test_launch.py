"""`cdgmae cluster launch` in jobs of several nodes on a real Slurm."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.slow

CDGMAE = f"{shlex.quote(sys.executable)} -m cdgmae"
FOUR_RANKS = ("--partition", "gpu", "--nodes=2", "--ntasks-per-node=2", "--gres=gpu:2", "--cpus-per-task=2")

PAYLOAD = """
import json, os, sys, time
from pathlib import Path
from cdgmae.runtime.distribution import join_group, rank
from cdgmae.runtime.interrupts import StopRequest, leave_ranks
join_group()
if sys.argv[1] == "fail" and rank() == 1:
    sys.exit(3)
stop, resumed = StopRequest().__enter__(), Path(f"saved{rank()}").exists()
names = ("SLURMD_NODENAME", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES")
result = {name: os.environ[name] for name in names}
result["seconds_left"] = float(os.environ["CDGMAE_DEADLINE"]) - time.time()
result["cores"] = os.environ["SLURM_CPUS_PER_TASK"]
Path(f"rank{rank()}.part").write_text(json.dumps(result))
Path(f"rank{rank()}.part").rename(f"rank{rank()}.json")
while not resumed:
    time.sleep(0.1)
    if stop.reason():
        time.sleep(0.5 * rank())  # some take longer to save than others
        Path(f"saved{rank()}").write_text(stop.reason())
        sys.exit(leave_ranks(85))
Path(f"done{rank()}").touch()
"""


def wait_for(what: Callable[[], object], log: Path, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.2)


def submit(cluster: VirtualCluster, folder: Path, *options: str, script: str) -> str:
    (folder / "payload.py").write_text(PAYLOAD)
    wrapped = ("--mem=500", "--time=5", "--output", "log.txt", "--open-mode=append", "--wrap", f"{script}; echo code $?")
    return cluster.call("sbatch", "--parsable", "--requeue", *options, *wrapped, cwd=folder).strip()


def launched(options: str, argument: str = "") -> str:
    return f"{CDGMAE} cluster launch srun {options} -- {shlex.quote(sys.executable)} payload.py '{argument}'"


def test_ranks_know_their_place_and_limit_and_go_on_in_the_same_job_after_a_signal(
    cluster: VirtualCluster, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    job = submit(cluster, tmp_path, *FOUR_RANKS, script=launched("--nodes 2 --ranks-per-node 2"))
    wait_for(lambda: len(list(tmp_path.glob("rank*.json"))) == 4, log)
    ranks = [json.loads((tmp_path / f"rank{number}.json").read_text()) for number in range(4)]
    assert [result["LOCAL_RANK"] for result in ranks] == ["0", "1", "0", "1"]
    assert len({result["SLURMD_NODENAME"] for result in ranks}) == 2
    for result in ranks:
        shared = {
            name: result[name] for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES", "cores")
        }
        assert shared == {
            "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "0,1", "cores": "2",
        }  # fmt: skip
        assert 240 < result["seconds_left"] < 275  # of 300 s, a tenth is left for saving

    cluster.call("scancel", "--signal=USR1", job)
    wait_for(lambda: cluster.queue().get(job) == "PENDING", log)
    assert [(tmp_path / f"saved{number}").read_text() for number in range(4)] == ["SIGUSR1"] * 4
    assert f"job {job} goes back into the queue" in log.read_text()
    cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # by itself it starts after two minutes
    wait_for(lambda: log.read_text().endswith("code 0\n"), log)  # between two states squeue may miss the job for a moment
    assert len(list(tmp_path.glob("done*"))) == 4


def test_one_rank_that_fails_ends_all(cluster: VirtualCluster, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    job = submit(cluster, tmp_path, *FOUR_RANKS, script=launched("--nodes 2 --ranks-per-node 2", "fail"))
    wait_for(lambda: job not in cluster.queue(), log)
    assert int(log.read_text().rsplit("code ", 1)[1]) not in (0, 85)


def test_another_number_of_ranks_than_asked_for_is_refused(cluster: VirtualCluster, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    wrong = f"CDGMAE_WORLD_SIZE=3 srun --ntasks=2 {CDGMAE} pretrain run --shards none --output none"
    job = submit(cluster, tmp_path, "--ntasks=2", script=f"{launched('--ranks-per-node 4')}; {wrong}")
    wait_for(lambda: job not in cluster.queue(), log)
    text = log.read_text()
    assert "1 node(s) with 4 rank(s) each were asked for, but job" in text
    assert text.count("3 processes were asked for (nodes x ranks per node), but 2 were started") >= 1
    assert text.endswith("code 1\n")
