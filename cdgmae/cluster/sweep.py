"""Slurm jobs whose controller, the `snakemake` process that submitted them, is gone.

A killed controller leaves its jobs running, and a new one does not take them over. The executor gives all jobs of one run the
same name, `PREFIX_RUNID` with a random run id, and the controller writes that name and its host into its log file under
`.snakemake/log`, which it keeps open as long as it lives. So a job belongs to this workflow if a log in this folder names its
run, and its controller is alive if a process on the log's host holds that file open. The lock files in `.snakemake/locks` say
neither: they hold no run id and outlive a killed controller.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cdgmae.cluster.queue import QueuedJob, cancel_jobs, own_jobs, wait_until_gone

RUN_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,50}_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RUN_LINE = "SLURM run ID: "
HOST_LINE = "Host: "
HEAD_LINES = 2000
"""Lines of a log that are searched: the run id is written before the first job is submitted."""

CANCEL_SECONDS = 120
"""How long cancelled jobs get to end; Slurm kills them `KillWait` (30 s by default) after the first signal."""

Verdict = Literal["dead", "alive", "elsewhere", "unknown"]


@dataclass(frozen=True)
class Controller:
    """One run of `snakemake` as its log tells it: the name of its jobs, its host (None if not logged), and the log."""

    run_name: str
    host: str | None
    log: Path


def read_controller(log: Path) -> Controller | None:
    """The controller behind a log file; None if it submitted nothing to Slurm or was told to be quiet about it."""
    host = None
    with log.open(encoding="utf-8", errors="replace") as lines:
        for _, line in zip(range(HEAD_LINES), lines, strict=False):
            if line.strip().startswith(HOST_LINE) and host is None:
                host = line.strip().removeprefix(HOST_LINE)
            if line.startswith(RUN_LINE):
                return Controller(line.removeprefix(RUN_LINE).strip(), host, log)
    return None


def find_controllers(folder: Path, run_names: set[str]) -> dict[str, Controller]:
    """The controllers of these runs, from the logs in `folder`, newest first; runs of other folders are left out."""
    controllers: dict[str, Controller] = {}
    for log in sorted((folder / ".snakemake" / "log").glob("*.snakemake.log"), reverse=True):
        if run_names <= controllers.keys():
            break
        controller = read_controller(log)
        if controller is not None and controller.run_name in run_names:
            controllers[controller.run_name] = controller
    return controllers


def held_open(files: Sequence[Path]) -> list[Path]:
    """Those of `files` that a process of this user on this machine holds open."""
    wanted = {(state.st_dev, state.st_ino): file for file in files for state in [file.stat()]}
    open_inodes = {(state.st_dev, state.st_ino) for state in _open_files()} if wanted else set()
    return [file for key, file in wanted.items() if key in open_inodes]


def _open_files() -> Iterator[os.stat_result]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid != os.getuid():
                continue
            descriptors = list((process / "fd").iterdir())
        except OSError:
            continue  # ended meanwhile
        for descriptor in descriptors:
            try:
                yield descriptor.stat()
            except OSError:
                continue  # closed meanwhile


def judge(controller: Controller | None) -> Verdict:
    """What became of a controller, as far as this machine can tell."""
    if controller is None:
        return "unknown"
    if held_open([controller.log]):
        return "alive"
    if controller.host is None:
        return "unknown"
    return "dead" if controller.host == socket.gethostname() else "elsewhere"


def sweep(
    folder: Path, cancel: bool, older_than_min: float = 0.0, wait_seconds: float = CANCEL_SECONDS, assume_gone: bool = False
) -> dict[str, Any]:
    """Find the jobs of this workflow whose controller is gone, and end them if asked.

    Args:
        folder: The workflow's working folder, in which `snakemake` was started.
        cancel: Whether to cancel the leftover jobs and wait until they have left the queue.
        older_than_min: Leave younger jobs alone; minutes since submission.
        wait_seconds: How long to wait for cancelled jobs to end.
        assume_gone: Take a controller that cannot be seen from this host for dead.

    Returns:
        `runs`: each run of this folder with jobs in the queue: its jobs' name, verdict (`dead`, `alive`, `elsewhere`: another
        host, `unknown`: no log tells), host and log; `leftover`: the jobs of dead controllers; `cancelled` and `still_there`:
        the ids of jobs that were cancelled, and of those which had not ended in time.

    Raises:
        ValueError: if `folder` holds no workflow, or Slurm does not answer.
    """
    if not (folder / ".snakemake").is_dir():
        raise ValueError(
            f"{folder.absolute()} holds no .snakemake folder, so no workflow ran there; give --folder the folder in which "
            "snakemake was started"
        )
    jobs = [job for job in own_jobs() if RUN_NAME.fullmatch(job.name)]
    controllers = find_controllers(folder, {job.name for job in jobs})
    here = os.path.realpath(folder)
    jobs = [job for job in jobs if job.name in controllers or os.path.realpath(job.folder) == here]
    verdicts = {name: judge(controllers.get(name)) for name in sorted({job.name for job in jobs})}
    gone = {"dead", "elsewhere", "unknown"} if assume_gone else {"dead"}
    leftover = [job for job in jobs if verdicts[job.name] in gone and job.age_min >= older_than_min]
    ids = [job.id for job in leftover] if cancel else []
    cancel_jobs(ids)
    return {
        "runs": [_run_row(name, verdict, controllers.get(name), jobs) for name, verdict in verdicts.items()],
        "leftover": [
            {"job": job.id, "state": job.state, "minutes": round(job.age_min, 1), "run": job.name, "what": job.comment}
            for job in leftover
        ],
        "cancelled": ids,
        "still_there": wait_until_gone(ids, wait_seconds) if ids else [],
    }


def _run_row(name: str, verdict: Verdict, controller: Controller | None, jobs: list[QueuedJob]) -> dict[str, Any]:
    return {
        "run": name,
        "controller": verdict,
        "host": controller.host if controller else None,
        "log": str(controller.log) if controller else None,
        "jobs": sum(job.name == name for job in jobs),
    }
