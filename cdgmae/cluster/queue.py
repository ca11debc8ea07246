"""The Slurm queue through `squeue`, `sbatch` and `scancel`; nothing here needs the accounting database."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

logger = logging.getLogger("cdgmae")

SEPARATOR = "\x1f"
"""Between the fields of a line: a character that no job name, folder or comment holds."""

FIELDS = ("%i", "%j", "%T", "%V", "%r", "%Z", "%k")
KEPT_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS")
COMMAND_SECONDS = 60
RULE_COMMENT = "rule_"
"""How the executor's comment on a job begins; the rule follows, then its wildcards."""
SUBMITTED = ".snakemake/slurm_logs"
"""What the executor leaves in a folder from which it submitted jobs."""
CHUNK = 200
"""Job ids in one command line."""


@dataclass(frozen=True)
class QueuedJob:
    """One of this user's jobs that is waiting, running or ending; `age_min` is minutes since it was submitted."""

    id: str
    name: str
    state: str
    age_min: float
    reason: str
    folder: str
    comment: str

    @property
    def what(self) -> str:
        """Rule and wildcards of a job that Snakemake submitted, e.g. `make_views s_ldm_00003`: its name is that of the whole run."""
        return self.comment.removeprefix(RULE_COMMENT).replace("_wildcards_", " ", 1)


def call_slurm(*command: str) -> str:
    """Run one Slurm command and return what it printed.

    Raises:
        ValueError: if the command does not exist here, fails, or does not answer within a minute.
    """
    if shutil.which(command[0]) is None:
        raise ValueError(
            f"{command[0]} is not on PATH, so there is no Slurm here; log in to a node of the cluster from which jobs are "
            "submitted (perhaps `module load slurm`) and run the command again"
        )
    # Inside a Slurm job the variables of that job would become options of the command.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in KEPT_VARIABLES}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            env=environment | {"SLURM_TIME_FORMAT": "standard"},
            check=False,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{command[0]} did not answer within {COMMAND_SECONDS} s; the Slurm controller is busy or down"
        ) from None
    if done.returncode:
        raise ValueError(f"{command[0]} failed with exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def own_jobs() -> list[QueuedJob]:
    """All jobs of this user that have not ended, of whatever workflow.

    Raises:
        ValueError: as `call_slurm`.
    """
    user = pwd.getpwuid(os.getuid()).pw_name
    text = call_slurm("squeue", "--noheader", "--user", user, "--format", SEPARATOR.join(FIELDS))
    jobs = []
    for line in text.split("\n"):
        fields = line.split(SEPARATOR)
        if len(fields) != len(FIELDS):
            continue  # the last line, or the rest of a comment with a line break
        number, name, state, submitted, reason, folder, comment = fields
        age = time.time() - datetime.fromisoformat(submitted).timestamp()
        jobs.append(QueuedJob(number, name, state, age / 60, reason, folder, comment))
    return jobs


def jobs_of_folder(folder: Path) -> list[QueuedJob]:
    """The waiting and running jobs that a workflow submitted in a folder; none where there is no Slurm, or none that answers."""
    if not (folder / ".snakemake").is_dir() or shutil.which("squeue") is None:
        return []
    here = os.path.realpath(folder)
    try:
        return [job for job in own_jobs() if job.comment.startswith(RULE_COMMENT) and os.path.realpath(job.folder) == here]
    except ValueError:
        if (folder / SUBMITTED).is_dir():
            logger.warning("the queue is not shown, since Slurm does not answer here; `squeue --me` says why")
        return []


def cancel_jobs(ids: list[str]) -> None:
    """Ask Slurm to end these jobs; those that have ended by themselves are no error.

    Raises:
        ValueError: as `call_slurm`.
    """
    queued = {job.id for job in own_jobs()} if ids else set()
    present = [number for number in ids if number in queued]  # scancel fails for an id that Slurm has forgotten
    for start in range(0, len(present), CHUNK):
        call_slurm("scancel", "--quiet", *present[start : start + CHUNK])


def wait_until_gone(ids: list[str], seconds: float) -> list[str]:
    """Wait until these jobs have left the queue.

    Returns:
        The ids that are still there after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = sorted(set(ids) & {job.id for job in own_jobs()})
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(1)
