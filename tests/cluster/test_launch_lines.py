"""What a launcher starts, when a job goes back into the queue, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdgmae.cluster.launch import Shape, deadline, reason_to_stay_out, srun_line, torchrun_line
from cdgmae.cluster.own_job import OwnJob, own_job, read_job
from cdgmae.cluster.ranks import join_ranks
from cdgmae.runtime.distribution import join_group, local_rank, local_world_size, rank, world_size
from cdgmae.runtime.interrupts import EXIT_INTERRUPTED, StopRequest
from tests.warm_start import warm_programs

JOB = OwnJob("7", "RUNNING", end=10_000.0, tasks=1, cores_per_task=4, restarts=0, may_requeue=True)

SHOWN = (
    "JobId=7 JobName=x UserId=me(1) JobState=RUNNING Reason=None Requeue=1 Restarts=2 BatchFlag=1 TimeLimit=01:00:00 "
    "StartTime=2026-11-21T19:00:00 EndTime=2026-11-21T20:00:00 NumNodes=2 NumCPUs=8 NumTasks=4 CPUs/Task=2 TresPerNode=gres:gpu:2 "
    "Comment=NumTasks=99 EndTime=never"
)

FAKE_SLURM = """#!/bin/sh
echo "$(basename $0) $*" >> "$LOG"
case "$(basename $0) $1" in
    "scontrol show") echo "JobId=7 JobState=${STATE:-RUNNING} Requeue=1 Restarts=${RESTARTS:-0} EndTime=Unknown NumTasks=2 CPUs/Task=3";;
    "scontrol requeue") kill -9 $PPID;;
    srun*) exit ${CODE:-0};;
esac
"""


def test_one_process_per_rank_and_the_cores_that_the_job_gives_each() -> None:
    line = srun_line(Shape(1, 1), JOB, ["train", "--x"])
    assert line[:5] == ["srun", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--cpus-per-task=4"]
    assert line[-4:] == ["--kill-on-bad-exit=1", "--wait=0", "train", "--x"]
    large = OwnJob("7", "RUNNING", None, tasks=32, cores_per_task=None, restarts=0, may_requeue=True)
    assert srun_line(Shape(4, 8), large, ["train"])[1:4] == ["--nodes=4", "--ntasks=32", "--ntasks-per-node=8"]
    assert not any(word.startswith("--cpus") for word in srun_line(Shape(4, 8), large, ["train"]))
    assert "--nproc-per-node=8" in torchrun_line(Shape(1, 8), ["train"])


def test_a_job_without_room_for_the_ranks_is_told_what_to_set() -> None:
    with pytest.raises(
        ValueError, match=r"1 node\(s\) with 8 rank\(s\) each were asked for, but job 7 has room for 1; .*`mpi: srun`"
    ):
        srun_line(Shape(1, 8), JOB, ["train"])


def test_a_job_is_read_from_what_scontrol_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    job = read_job("7", SHOWN)
    assert (job.state, job.tasks, job.cores_per_task, job.restarts, job.may_requeue) == ("RUNNING", 4, 2, 2, True)
    assert job.end is not None
    assert read_job("7", SHOWN.replace("EndTime=2026-11-21T20:00:00", "EndTime=Unknown")).end is None
    assert read_job("7", SHOWN.replace("CPUs/Task=2", "CPUs/Task=N/A")).cores_per_task is None
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ValueError, match="launcher srun starts steps of a Slurm job, but this is none"):
        own_job()


def test_the_deadline_leaves_time_to_save() -> None:
    assert deadline(JOB, now=0.0) == 10_000 - 300
    assert deadline(JOB, now=9_000.0) == 10_000 - 100
    assert deadline(OwnJob("7", "RUNNING", None, 1, None, 0, True), now=0.0) is None


@pytest.mark.parametrize(
    ("state", "restarts", "may_requeue", "ran", "reason"),
    [
        ("RUNNING", 0, True, 5.0, None),
        ("RUNNING", 49, True, 3600.0, None),
        ("RUNNING", 1, True, 5.0, "ran for 5 s only"),
        ("RUNNING", 50, True, 3600.0, "put back 50 times already"),
        ("RUNNING", 0, False, 3600.0, "--no-requeue"),
        ("CANCELLED", 0, True, 3600.0, "it is CANCELLED"),
        ("COMPLETING", 0, True, 3600.0, "it is COMPLETING"),
    ],
)
def test_no_job_goes_back_for_ever_or_against_the_user(
    state: str, restarts: int, may_requeue: bool, ran: float, reason: str | None
) -> None:
    found = reason_to_stay_out(OwnJob("7", state, None, 1, None, restarts, may_requeue), ran)
    assert (found is None) if reason is None else (found is not None and reason in found)


def launch(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(warm_programs() / "cdgmae"), "cluster", "launch", *arguments],
        cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_without_a_launcher_the_command_runs_as_it_is(tmp_path: Path) -> None:
    done = launch(tmp_path, "none", "--", "sh", "-c", "echo $1 $CDGMAE_WORLD_SIZE; exit 85", "sh", "--help")
    assert (done.returncode, done.stdout) == (85, "--help\n")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_started_is_refused(tmp_path: Path) -> None:
    assert "launcher none starts one process" in launch(tmp_path, "none", "--ranks-per-node", "2", "--", "true").stderr
    assert "launcher torchrun starts processes on one node" in launch(tmp_path, "torchrun", "--nodes", "2", "--", "true").stderr
    assert "no-such-program: no such command" in launch(tmp_path, "none", "--", "no-such-program").stderr


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Environment of a job in which srun does nothing, and scontrol ends the caller when asked to requeue, as Slurm does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "scontrol", "squeue"):
        (folder / name).write_text(FAKE_SLURM)
        (folder / name).chmod(0o755)
    (tmp_path / "here").mkdir()
    return {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(tmp_path / "calls"), "SLURM_JOB_ID": "7"}


def calls(slurm: dict[str, str]) -> list[str]:
    return [line.split(" --")[0] for line in Path(slurm["LOG"]).read_text().splitlines()]


@pytest.mark.slow
def test_a_command_that_stopped_early_puts_its_job_back(tmp_path: Path, slurm: dict[str, str]) -> None:
    arguments = ("srun", "--ranks-per-node", "2", "--", "true")
    assert launch(tmp_path / "here", *arguments, **slurm).returncode == 0
    assert calls(slurm) == ["scontrol show job", "srun"]
    assert "--ntasks=2" in Path(slurm["LOG"]).read_text()
    assert launch(tmp_path / "here", *arguments, **slurm, CODE="3").returncode == 3
    Path(slurm["LOG"]).unlink()
    assert launch(tmp_path / "here", *arguments, **slurm, CODE="85").returncode == -9
    assert calls(slurm) == ["scontrol show job", "srun", "scontrol show job", "scontrol requeue 7"]
    for variables in ({"STATE": "COMPLETING"}, {"RESTARTS": "1"}, {"RESTARTS": "50"}):
        Path(slurm["LOG"]).unlink()
        done = launch(tmp_path / "here", *arguments, **slurm, **variables, CODE="85")
        assert done.returncode == EXIT_INTERRUPTED
        assert "this job does not go back into the queue" in done.stderr
        assert "scontrol requeue 7" not in calls(slurm)


def test_the_place_among_the_ranks_comes_from_the_slurm_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    step = {
        "PROCID": "5",
        "LOCALID": "1",
        "STEP_NUM_TASKS": "8",
        "STEP_NUM_NODES": "2",
        "LAUNCH_NODE_IPADDR": "10.0.0.1",
        "JOB_ID": "70001",
    }
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    join_group()
    assert (rank(), world_size()) == (0, 1)  # not started by the launcher: none of its business
    monkeypatch.setenv("CDGMAE_WORLD_SIZE", "8")
    join_ranks(["-v", "pretrain", "run", "--seed", "1"])
    assert (rank(), local_rank(), world_size(), local_world_size()) == (5, 1, 8, 4)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("10.0.0.1", str(20_000 + 70_001 % 12_000))
    with pytest.raises(ValueError, match="`cdgmae views make` runs as one process, but 8 were started"):
        join_ranks(["views", "make"])
    monkeypatch.setenv("CDGMAE_WORLD_SIZE", "16")
    with pytest.raises(ValueError, match=r"16 processes were asked for .* but 8 were started; make `nodes` and `tasks_per_node`"):
        join_ranks(["pretrain", "run"])


def test_a_deadline_is_a_point_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDGMAE_DEADLINE", "1000")
    assert StopRequest().reason() == "time limit"
    monkeypatch.setenv("CDGMAE_DEADLINE", "99999999999")
    assert StopRequest().reason() is None
    monkeypatch.setenv("CDGMAE_TIME_LIMIT", "0")
    assert StopRequest().reason() == "time limit"


PAYLOAD = """
import json, os, sys
from pathlib import Path
from cdgmae.runtime.distribution import join_group, rank
from cdgmae.runtime.interrupts import leave_ranks
join_group()
Path(f"rank{rank()}").write_text(json.dumps([os.environ["CDGMAE_WORLD_SIZE"], os.environ["LOCAL_RANK"]]))
sys.exit(leave_ranks(85) if rank() == 1 else int(sys.argv[1]))
"""


@pytest.mark.slow
def test_processes_on_one_machine_and_one_that_stopped_early(tmp_path: Path) -> None:
    done = launch(tmp_path, "torchrun", "--ranks-per-node", "2", "--", sys.executable, "-c", PAYLOAD, "0")
    assert done.returncode == EXIT_INTERRUPTED, done.stderr
    assert [json.loads((tmp_path / f"rank{number}").read_text()) for number in range(2)] == [["2", "0"], ["2", "1"]]
    assert list((tmp_path / "work/launch").iterdir()) == []


@pytest.mark.slow
def test_a_failure_of_one_process_counts_more_than_the_early_stop_of_another(tmp_path: Path) -> None:
    done = launch(tmp_path, "torchrun", "--ranks-per-node", "2", "--", sys.executable, "-c", PAYLOAD, "3")
    assert done.returncode == 1
