"""The state of one job, told from its outputs, its lock, its log and its unfinished work; nothing is written or kept locked."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cdgmae.runtime.progress import JobProgress, last_progress
from cdgmae.status.expected import Job
from cdgmae.status.kept_work import kept_work
from cdgmae.status.plan import Plan
from cdgmae.storage.files.locks import holder_host, is_held

State = Literal["done", "running", "failed", "waiting", "to do"]

LOG_TAIL_BYTES = 32 << 10
QUIET_SECONDS = 60.0
"""A job that holds no lock (yet) counts as running while its log is younger: jobs need some seconds before they take their lock."""
REMOTE_QUIET_SECONDS = 300.0
"""The same for a job of another machine whose lock this kernel does not see; its log grows with every progress line."""

SILENT_END = (
    "ended without a message: killed, or out of memory or time, or not seen for a while on another machine; finished work is kept"
)
_END_MARKERS: dict[str, State] = {"error:": "failed", "stopped early:": "waiting"}
"""How the command line begins its last words."""

_LAST_LINE_OF_TRACEBACK = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b.*")


@dataclass(frozen=True, slots=True)
class JobState:
    """What is known of one job.

    Attributes:
        job: The job.
        state: `done`: all outputs are there, and Snakemake would not make them again. `running`. `failed`: its log ends without success
            and no output is there.
            `waiting`: stopped early with its state saved. `to do`: its outputs are not there and nothing tells of a failure, or they are outdated.
        time: When it finished, or last wrote to its log, in seconds since 1970; None if never.
        progress: Its last progress line, of a job that is not done.
        kept: Finished work in its work folder, e.g. `40 views`, of a job that is not done; left out where a running job shows its
            progress. It counts while the job's settings stay the same.
        message: Why it failed or waits.
    """

    job: Job
    state: State
    time: float | None = None
    progress: JobProgress | None = None
    kept: str | None = None
    message: str | None = None


def judge(job: Job, root: Path, now: float, plan: Plan | None = None) -> JobState:
    """The state of a job.

    Args:
        job: The job.
        root: Working directory of the workflow.
        now: Seconds since 1970.
        plan: What Snakemake will make; without it, a job is done when its outputs are there.
    """
    locked = next((root / output for output in job.locked if is_held(root / output)), None)
    held = locked is not None
    finished = _finish_time(job, root)
    if finished is not None and not held:
        outdated = plan is not None and finished < plan.made and not plan.outputs.isdisjoint(job.outputs)
        return JobState(job, "to do" if outdated else "done", finished)
    log = root / job.log
    written, tail = _modified(log), _tail(log)
    progress = last_progress(tail)
    if held:
        return JobState(job, "running", written, progress, _kept(job, root) if progress is None else None)
    if written is None or (_modified(root / job.benchmark) or 0.0) >= written:  # it succeeded; its outputs were removed since
        return JobState(job, "to do", kept=_kept(job, root))
    state, message = _how_it_ended(tail) or _broken_off(tail, now - written < _patience(job, root))
    finished = _finish_time(job, root)
    if finished is not None:  # while its log was read
        return JobState(job, "done", finished)
    return JobState(job, state, written, progress, _kept(job, root), message)


def _kept(job: Job, root: Path) -> str | None:
    """What lies in the job's work folder."""
    return ", ".join(saved for work in job.work if (saved := kept_work(root / work)) is not None) or None


def _finish_time(job: Job, root: Path) -> float | None:
    """When the last output appeared; None while one is missing."""
    times = [_modified(root / output) for output in job.outputs]
    return None if None in times else max(time for time in times if time is not None)


def _patience(job: Job, root: Path) -> float:
    """How long a log may be silent before its job counts as ended."""
    host = next((host for output in job.locked if (host := holder_host(root / output)) is not None), None)
    if host is None:
        return QUIET_SECONDS
    return 0.0 if host == socket.gethostname() else REMOTE_QUIET_SECONDS


def _how_it_ended(tail: str) -> tuple[State, str | None] | None:
    """State and message that the end of a log tells for a job without outputs; None if it just breaks off."""
    for marker, state in _END_MARKERS.items():
        _, marker_line, message = tail.rpartition(f"\n{marker}")
        if marker_line:
            return state, " ".join(message.split())
    lines = tail.splitlines()
    if "Traceback (most recent call last):" in tail:
        errors = [line for line in lines if _LAST_LINE_OF_TRACEBACK.match(line)]
        return "failed", errors[-1] if errors else "ended in a traceback"
    return None


def _broken_off(tail: str, alive: bool) -> tuple[State, str | None]:
    """State and message for a log without an end; its last line may be a foreign program's error."""
    if alive:
        return "running", None
    last = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
    return "failed", f"{SILENT_END}; last line: {last}" if last else SILENT_END


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _tail(path: Path) -> str:
    """The end of a log, after a line break; empty if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            return "\n" + file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
