"""The Slurm job this process runs in: its limit, its size, and whether it can be put back into the queue."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime

from cdgmae.cluster.queue import call_slurm


@dataclass(frozen=True)
class OwnJob:
    """One job as `scontrol show job` tells it.

    Attributes:
        id: Its number.
        state: RUNNING, COMPLETING, ...
        end: When its time limit ends it, in seconds since 1970; None without a limit.
        tasks: Tasks for which it has room.
        cores_per_task: None where the job does not say.
        restarts: How often it was put back into the queue.
        may_requeue: Whether Slurm may put it back.
    """

    id: str
    state: str
    end: float | None
    tasks: int
    cores_per_task: int | None
    restarts: int
    may_requeue: bool


def own_job() -> OwnJob:
    """Look up the job of this process: Snakemake's executor strips the variables in which Slurm says most of this.

    Raises:
        ValueError: outside a job, or if Slurm does not answer.
    """
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:
        raise ValueError(
            "launcher srun starts steps of a Slurm job, but this is none (SLURM_JOB_ID is not set); submit the command with sbatch or "
            "Snakemake's Slurm executor, or use launcher none or torchrun"
        )
    return read_job(number, call_slurm("scontrol", "show", "job", "--oneliner", number))


def read_job(number: str, text: str) -> OwnJob:
    """The fields in one line of `scontrol show job`."""
    fields: dict[str, str] = {}
    for name, value in re.findall(r"(?:^|\s)([A-Za-z/]+)=(\S*)", text):
        fields.setdefault(name, value)  # what the user wrote, e.g. the comment, comes last
    end, cores = fields.get("EndTime", "Unknown"), fields.get("CPUs/Task", "")
    return OwnJob(
        number,
        fields.get("JobState", "UNKNOWN"),
        datetime.fromisoformat(end).timestamp() if end[:1].isdigit() else None,
        int(fields.get("NumTasks", "1")),
        int(cores) if cores.isdigit() else None,
        int(fields.get("Restarts", "0")),
        fields.get("Requeue") == "1",
    )
