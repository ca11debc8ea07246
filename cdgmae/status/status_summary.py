"""The states of all jobs, counted by group, with rates and remaining times."""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cdgmae.cluster.queue import jobs_of_folder
from cdgmae.config import Config
from cdgmae.status.evidence import JobState, judge
from cdgmae.status.expected import Job, expected_jobs
from cdgmae.status.made_otherwise import made_otherwise
from cdgmae.status.plan import Plan
from cdgmae.status.undeclared import undeclared_results

STATES = ("done", "running", "failed", "waiting", "to do")
RECENT_JOBS = 20
"""Finished jobs of a group from which its seconds per job are taken: the newest ones."""
SHOWN_ERRORS = 5


def workflow_status(config: Config, root: Path = Path(), now: float | None = None, plan: Plan | None = None) -> dict[str, Any]:
    """What the workflow has done, does and has still to do.

    Args:
        config: The configuration that the workflow runs with.
        root: Its working directory.
        now: Seconds since 1970; the present if left out.
        plan: What Snakemake would still make.

    Returns:
        `jobs` (state -> number), `groups` (one dict per group, in order: stage, group, total, states, jobs_per_hour, seconds_left),
        `running` (one per running job), `queue` (the jobs that Slurm holds for this folder), `errors` (failed and waiting jobs, newest
        first), `made_otherwise` (finished ones of another version or other settings) and `undeclared` (path and bytes of what lies in results/
        beside what the configuration names).
    """
    moment = time.time() if now is None else now
    states = [judge(job, root, moment, plan) for job in expected_jobs(config)]
    groups: dict[tuple[str, str], list[JobState]] = defaultdict(list)
    for state in states:
        groups[state.job.stage, state.job.group].append(state)
    stopped = sorted(
        (state for state in states if state.state in ("failed", "waiting")), key=lambda state: state.time or 0.0, reverse=True
    )
    return {
        "jobs": _count(states),
        "groups": [_group_row(stage, group, group_states, root, moment) for (stage, group), group_states in groups.items()],
        "running": [_running_row(state, moment) for state in states if state.state == "running"],
        "queue": [
            {"job": job.id, "state": job.state, "what": job.what, "reason": job.reason, "minutes": round(job.age_min, 1)}
            for job in jobs_of_folder(root)
        ],
        "errors": [_stopped_row(state, moment) for state in stopped[:SHOWN_ERRORS]],
        "made_otherwise": made_otherwise(config, states, root),
        "undeclared": [{"path": path, "bytes": num_bytes} for path, num_bytes in undeclared_results(config, root)],
    }


def _count(states: Sequence[JobState]) -> dict[str, int]:
    return {name: sum(state.state == name for state in states) for name in STATES}


def _group_row(stage: str, group: str, states: Sequence[JobState], root: Path, now: float) -> dict[str, Any]:
    counts, seconds = _count(states), _seconds_per_job(states, root)
    at_once = counts["running"]
    rate = 3600.0 * at_once / seconds if at_once and seconds else None
    return {
        "stage": stage, "group": group, "total": len(states), **counts,
        "jobs_per_hour": rate, "seconds_left": _seconds_left(states, seconds, now),
    }  # fmt: skip


def _seconds_left(states: Sequence[JobState], seconds_per_job: float | None, now: float) -> float | None:
    """Remaining seconds of a group at the present number of running jobs; None if unknown, or if nothing runs."""
    running = [state for state in states if state.state == "running"]
    open_jobs = sum(state.state in ("to do", "waiting") for state in states)
    if not running or (open_jobs and seconds_per_job is None):
        return None
    own = [_own_seconds_left(state, now) for state in running]
    if any(left is None for left in own) and seconds_per_job is None:
        return None
    known = [left if left is not None else (seconds_per_job or 0.0) / 2 for left in own]  # on average, half of a job is left
    return max(max(known), (sum(known) + open_jobs * (seconds_per_job or 0.0)) / len(running))


def _own_seconds_left(state: JobState, now: float) -> float | None:
    """What a running job's last progress line says, less the time since then."""
    progress = state.progress
    if progress is None or progress.seconds_left is None or state.time is None:
        return None
    return max(0.0, progress.seconds_left - (now - state.time))


def _seconds_per_job(states: Sequence[JobState], root: Path) -> float | None:
    """Mean seconds of the newest finished jobs by their benchmark files, else by the distances of their finish times."""
    done = sorted(((state.time or 0.0, state.job) for state in states if state.state == "done"), key=lambda pair: pair[0])
    newest = done[-RECENT_JOBS:]
    measured = [seconds for _, job in newest if (seconds := _benchmark_seconds(job, root)) is not None]
    if measured:
        return fmean(measured)
    if len(newest) > 1 and newest[-1][0] > newest[0][0]:
        return (newest[-1][0] - newest[0][0]) / (len(newest) - 1)
    return None


def _benchmark_seconds(job: Job, root: Path) -> float | None:
    try:
        with (root / job.benchmark).open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file, delimiter="\t"), None)
        return float(row["s"]) if row is not None else None
    except (OSError, KeyError, ValueError):
        return None


def _running_row(state: JobState, now: float) -> dict[str, Any]:
    progress = state.progress
    return {
        "stage": state.job.stage, "rule": state.job.rule, "name": state.job.name, "log": state.job.log,
        "done": progress.done if progress is not None else None,
        "total": progress.total if progress is not None else None,
        "unit": progress.unit if progress is not None else None,
        "per_second": progress.rate if progress is not None else None,
        "seconds_left": _own_seconds_left(state, now),
        "kept": state.kept,
    }  # fmt: skip


def _stopped_row(state: JobState, now: float) -> dict[str, Any]:
    return {
        "stage": state.job.stage, "rule": state.job.rule, "name": state.job.name, "log": state.job.log, "state": state.state,
        "message": state.message, "kept": state.kept, "seconds_ago": now - state.time if state.time is not None else None,
    }  # fmt: skip
