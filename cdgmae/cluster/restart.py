"""Makes a workflow's folder ready for snakemake after anything that happened to the last one, and never while one still runs.

A snakemake that was killed leaves jobs in Slurm's queue and lock files in `.snakemake/locks`; the next one would refuse to start,
or do the work of the running jobs twice.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdgmae.cluster.queue import own_jobs
from cdgmae.cluster.sweep import HEAD_LINES, HOST_LINE, held_open, sweep

DRY_RUN = frozenset({"-n", "-np", "--dry-run", "--dryrun"})
PROFILE = Path("workflow/profiles/slurm")

ELSEWHERE = "stop it there, or run this command on that host; if the host or the process is gone for good, add --controller-gone to this command"


def snakemake_line(python: str, arguments: Sequence[str]) -> list[str]:
    """The snakemake command with the Slurm profile, unless the arguments name another workflow profile.

    Raises:
        ValueError: if the profile is not in this folder.
    """
    profile = []
    if not any(argument.split("=")[0] == "--workflow-profile" for argument in arguments):
        if not PROFILE.is_dir():
            raise ValueError(
                f"there is no {PROFILE} here; run this command in the workflow's folder, or give --workflow-profile; "
                "`cdgmae init FOLDER` makes a folder with one"
            )
        profile = ["--workflow-profile", str(PROFILE)]
    return [python, "-m", "snakemake", *profile, *arguments]


def working_folder(arguments: Sequence[str]) -> Path:
    """The folder that snakemake will work in: `--directory`, or this one."""
    folder = Path(".")
    for number, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--directory", "-d"):
            folder = Path(value or next(iter(arguments[number + 1 :]), "."))
    return folder


def make_ready(folder: Path, controller_gone: bool = False) -> dict[str, Any]:
    """Cancel the jobs and remove the locks that a dead snakemake left in a folder.

    Args:
        folder: The workflow's working folder.
        controller_gone: Whether the user says that a snakemake on another host, which cannot be seen from here, is gone.

    Returns:
        `cancelled`: ids of the jobs that were cancelled; `locks`: number of lock files that were removed.

    Raises:
        ValueError: if a snakemake runs in the folder, may run on another host, or if Slurm does not answer or end the jobs.
    """
    own_jobs()  # is there a Slurm? asked before anything is touched
    hidden = folder / ".snakemake"
    if not hidden.is_dir():
        return {"cancelled": [], "locks": 0}
    logs, locks = sorted((hidden / "log").glob("*.snakemake.log")), sorted((hidden / "locks").glob("*.lock"))
    if held := held_open(logs):
        raise ValueError(
            f"a snakemake runs in {folder.absolute()} already and writes {held[-1]}; wait for it, or stop it first (Ctrl-C in its "
            "terminal ends its jobs, too)"
        )
    outcome = sweep(folder, cancel=False)
    if not controller_gone:
        _check_owner_of_locks(logs, locks)
        for run in outcome["runs"]:
            if run["controller"] != "dead":
                place = f"on host {run['host']}" if run["host"] else "at an unknown place (its log is gone)"
                raise ValueError(
                    f"{run['jobs']} job(s) named {run['run']} belong to a snakemake that was started {place} and may still run; "
                    + ELSEWHERE
                )
    swept = sweep(folder, cancel=True, assume_gone=controller_gone)
    if swept["still_there"]:
        raise ValueError(
            f"jobs {', '.join(swept['still_there'])} of a dead snakemake were cancelled but are still ending; run this command again "
            "when `squeue --me` is rid of them"
        )
    for lock in locks:
        lock.unlink(missing_ok=True)
    return {"cancelled": swept["cancelled"], "locks": len(locks)}


def _check_owner_of_locks(logs: Sequence[Path], locks: Sequence[Path]) -> None:
    """Whoever made the locks wrote to its log afterwards; all such logs must be of this host, where no process holds them open."""
    if not locks:
        return
    since = min(lock.stat().st_mtime for lock in locks)
    suspects = [log for log in logs if log.stat().st_mtime >= since - 1] or list(logs[-1:])
    hosts = {_host(log) for log in suspects} or {None}
    if foreign := hosts - {socket.gethostname()}:
        place = " or ".join(sorted(f"on host {host}" if host else "at an unknown place" for host in foreign))
        raise ValueError(f"{locks[0].parent} was locked by a snakemake that was started {place} and may still run; " + ELSEWHERE)


def _host(log: Path) -> str | None:
    with log.open(encoding="utf-8", errors="replace") as lines:
        for _, line in zip(range(HEAD_LINES), lines, strict=False):
            if line.strip().startswith(HOST_LINE):
                return line.strip().removeprefix(HOST_LINE)
    return None


def run_snakemake(line: Sequence[str]) -> None:
    """Replace this process by snakemake, so that its terminal and signals are snakemake's own."""
    os.execv(line[0], list(line))
