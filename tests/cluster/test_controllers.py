"""Who submitted a job, and whether that process still lives; and what the cluster commands say where there is no Slurm."""

from __future__ import annotations

import json
import socket
import uuid
from pathlib import Path

import pytest

from cdgmae.cluster.node import probe_node
from cdgmae.cluster.probe import probe_cluster
from cdgmae.cluster.sweep import Controller, find_controllers, judge, read_controller, sweep

ROOT = Path(__file__).parents[2]
RUN = f"cdgmae_{uuid.UUID(int=7)}"


def write_log(folder: Path, name: str, run: str, host: str) -> Path:
    log = folder / ".snakemake/log" / f"{name}.snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"\nSNAKEMAKE\n  Date: today\n  Host: {host}\n\nBuilding DAG of jobs...\nSLURM run ID: {run}\nJob stats:\n")
    return log


def test_a_log_names_its_run_and_host(tmp_path: Path) -> None:
    log = write_log(tmp_path, "1", RUN, "login1")
    assert read_controller(log) == Controller(RUN, "login1", log)
    log.write_text("Building DAG of jobs...\nNothing to be done.\n")
    assert read_controller(log) is None


def test_only_runs_of_this_folder_are_found(tmp_path: Path) -> None:
    other = f"cdgmae_{uuid.UUID(int=8)}"
    write_log(tmp_path / "here", "1", RUN, "login1")
    write_log(tmp_path / "there", "1", other, "login1")
    assert find_controllers(tmp_path / "here", {RUN, other}).keys() == {RUN}


def test_a_controller_lives_as_long_as_it_holds_its_log_open(tmp_path: Path) -> None:
    log = write_log(tmp_path, "1", RUN, socket.gethostname())
    controller = read_controller(log)
    assert judge(controller) == "dead"
    with log.open("a"):
        assert judge(controller) == "alive"
    assert judge(controller) == "dead"


def test_nothing_is_called_dead_that_cannot_be_seen(tmp_path: Path) -> None:
    assert judge(read_controller(write_log(tmp_path, "1", RUN, "another-host"))) == "elsewhere"
    assert judge(None) == "unknown"
    log = write_log(tmp_path, "2", RUN, socket.gethostname())
    log.write_text(f"Building DAG of jobs...\nSLURM run ID: {RUN}\n")  # as with --quiet host
    assert judge(read_controller(log)) == "unknown"


def test_commands_say_that_there_is_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"holds no \.snakemake folder"):
        sweep(tmp_path, cancel=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / ".snakemake").mkdir()
    with pytest.raises(ValueError, match="squeue is not on PATH, so there is no Slurm here"):
        sweep(tmp_path, cancel=False)
    with pytest.raises(ValueError, match="sbatch is not on PATH, so there is no Slurm here"):
        probe_cluster(ROOT / "workflow/profiles/slurm", tmp_path, [], 1.0, say=print)
    assert [path.name for path in tmp_path.iterdir()] == [".snakemake"]


def test_a_task_reports_what_it_finds_and_what_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "500")
    result = probe_node(tmp_path, tmp_path)
    assert json.loads((tmp_path / "0.json").read_text()) == result
    assert result["problems"] == []
    assert result["write_mb_per_s"] > 0
    assert result["job_memory_mib"] == 500
    assert [path.name for path in tmp_path.iterdir()] == ["0.json"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    (problem,) = probe_node(tmp_path, tmp_path, compiles=True)["problems"]
    assert problem.startswith("runtime.compile is on, but there is no C compiler")
    bad = probe_node(tmp_path / "nowhere", tmp_path)
    assert bad["write_mb_per_s"] is None
    assert bad["problems"] == [f"{tmp_path / 'nowhere'} cannot be written from this node: No such file or directory"]
