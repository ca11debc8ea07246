"""Starting snakemake again: what a dead one left is cleared away, and a living one is left alone."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import pytest

from cdgmae.cluster.restart import make_ready, snakemake_line, working_folder
from tests.cluster.test_controllers import write_log

RUN = f"cdgmae_{uuid.UUID(int=7)}"


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that `squeue` prints; `scancel` empties it."""
    commands, queued = tmp_path / "bin", tmp_path / "queue"
    commands.mkdir()
    queued.write_text("")
    (commands / "squeue").write_text(f"#!/bin/sh\ncat {queued}\n")
    (commands / "scancel").write_text(f"#!/bin/sh\n: > {queued}\n")
    for command in commands.iterdir():
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return queued


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder that the snakemake of log 1, on this host, has locked."""
    folder = tmp_path / "here"
    write_log(folder, "1", RUN, socket.gethostname())
    (folder / ".snakemake/locks").mkdir()
    (folder / ".snakemake/locks/0.input.lock").write_text("a\n")
    return folder


def locked(folder: Path) -> bool:
    return any((folder / ".snakemake/locks").iterdir())


def job(folder: Path) -> str:
    return "\x1f".join(("5", RUN, "RUNNING", "2026-01-01T00:00:00", "None", str(folder), "rule_x")) + "\n"


def test_a_new_folder_needs_nothing(tmp_path: Path, queue: Path) -> None:
    assert make_ready(tmp_path) == {"cancelled": [], "locks": 0}


def test_jobs_and_lock_of_a_dead_snakemake_are_cleared_away(here: Path, queue: Path) -> None:
    queue.write_text(job(here))
    assert make_ready(here) == {"cancelled": ["5"], "locks": 1}
    assert not locked(here)
    assert queue.read_text() == ""


def test_a_living_snakemake_is_left_alone(here: Path, queue: Path) -> None:
    queue.write_text(job(here))
    with (
        (here / ".snakemake/log/1.snakemake.log").open("a"),
        pytest.raises(ValueError, match=r"a snakemake runs in .*/here already and writes .*1\.snakemake\.log"),
    ):
        make_ready(here, controller_gone=True)
    assert locked(here)
    assert queue.read_text()


def test_a_snakemake_on_another_host_counts_as_alive_until_the_user_says_otherwise(here: Path, queue: Path) -> None:
    write_log(here, "1", RUN, "login2")
    with pytest.raises(ValueError, match=r"locks was locked by a snakemake that was started on host login2 .* --controller-gone"):
        make_ready(here)
    (here / ".snakemake/locks/0.input.lock").unlink()
    queue.write_text(job(here))
    with pytest.raises(ValueError, match=r"1 job\(s\) named .* belong to a snakemake that was started on host login2"):
        make_ready(here)
    assert queue.read_text()
    assert make_ready(here, controller_gone=True) == {"cancelled": ["5"], "locks": 0}


def test_locks_without_a_log_and_jobs_of_an_unknown_run_are_not_touched(here: Path, queue: Path) -> None:
    (here / ".snakemake/log/1.snakemake.log").unlink()
    with pytest.raises(ValueError, match="started at an unknown place"):
        make_ready(here)
    (here / ".snakemake/locks/0.input.lock").unlink()
    queue.write_text(job(here))
    with pytest.raises(ValueError, match=r"at an unknown place \(its log is gone\)"):
        make_ready(here)
    assert queue.read_text()


def test_the_profile_is_added_unless_another_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no workflow/profiles/slurm here"):
        snakemake_line("python", [])
    assert snakemake_line("python", ["--workflow-profile=mine", "all"])[3:] == ["--workflow-profile=mine", "all"]
    (tmp_path / "workflow/profiles/slurm").mkdir(parents=True)
    assert snakemake_line("python", ["all"])[2:] == ["snakemake", "--workflow-profile", "workflow/profiles/slurm", "all"]
    assert working_folder(["all", "--directory", "there"]) == working_folder(["-d=there"]) == Path("there")
    assert working_folder(["all"]) == Path(".")
