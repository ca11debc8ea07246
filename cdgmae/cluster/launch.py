"""Starts a command as one process or several, on a laptop as in a Slurm job, and goes on with a Slurm job that ran out of time.

Under Snakemake's executor only the processes of the job's own `srun` steps hear signals, so with launcher `srun` the command is
always such a step, also for one GPU. All its processes see all GPUs of their node and take the one of their local rank, as
under torchrun: NCCL reaches its peers over NVLink only if it sees them, which `--gpus-per-task` would prevent.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cdgmae.cluster.own_job import OwnJob, own_job
from cdgmae.cluster.queue import KEPT_VARIABLES, call_slurm
from cdgmae.runtime.distribution import WORLD_SIZE_VARIABLE
from cdgmae.runtime.interrupts import EXIT_INTERRUPTED, NOTES_VARIABLE, STOP_SIGNALS
from cdgmae.storage.files.output_cache import OutputCache

logger = logging.getLogger("cdgmae")

NOTES_FOLDER = Path("work/launch")

MARGIN_SECONDS, MARGIN_SHARE = 300.0, 0.1
"""A command is told to stop this long before the limit of its job, or this share of the remaining time if that is less."""

MAX_RESTARTS = 50
SHORT_SECONDS = 60.0
"""A job that was put back before, and now stopped within this time, makes no progress."""

REQUEUE_SECONDS = 180
"""How long Slurm gets to end a job that was put back into the queue."""

GROUP_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Shape:
    """How many processes: nodes times ranks per node."""

    nodes: int
    ranks_per_node: int

    @property
    def world_size(self) -> int:
        """Number of processes over all nodes."""
        return self.nodes * self.ranks_per_node


def launch(
    launcher: Literal["none", "torchrun", "srun"], shape: Shape, command: Sequence[str], *, cache: OutputCache | None = None
) -> int:
    """Run a command to its end, unless its outputs are kept; with launcher `none` and no cache it replaces this process.

    Args:
        launcher: What starts the processes.
        shape: How many there are.
        command: Program and arguments.
        cache: The outputs of the command, which are put back if they were made before, and kept once they are made.

    Returns:
        The exit code of the command; 85 if it stopped early with its state saved and must be run again.

    Raises:
        ValueError: if there is no such command, or the launcher cannot start so many processes here.
    """
    if shutil.which(command[0]) is None:
        raise ValueError(f"{command[0]}: no such command; give `cdgmae cluster launch ... -- COMMAND` a program that is on PATH")
    if cache is None:
        return _start(launcher, shape, command, replace=True)
    if cache.restore():
        return 0
    code = _start(launcher, shape, command, replace=False)
    if code == 0:
        cache.store()
    return code


def _start(launcher: Literal["none", "torchrun", "srun"], shape: Shape, command: Sequence[str], *, replace: bool) -> int:
    if launcher == "srun":
        return _launch_srun(shape, command)
    if shape.nodes > 1 or (launcher == "none" and shape.world_size > 1):
        raise ValueError(
            f"launcher {launcher} starts {'one process' if launcher == 'none' else 'processes on one node'}, but {shape.nodes} node(s) "
            f"with {shape.ranks_per_node} rank(s) each were asked for; use launcher srun in a Slurm job, torchrun on one machine"
        )
    if shape.world_size == 1:
        if replace:
            os.execvp(command[0], list(command))
        return _wait_for(subprocess.Popen(command), pass_signals=True)
    return _run_group(torchrun_line(shape, command), shape, dict(os.environ), f"{socket.gethostname()}-{os.getpid()}", True)


def torchrun_line(shape: Shape, command: Sequence[str]) -> list[str]:
    """The torchrun command that starts the processes of one node and hands them its signals."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={shape.ranks_per_node}",
        "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", "--no-python", *command,
    ]  # fmt: skip


def srun_line(shape: Shape, job: OwnJob, command: Sequence[str]) -> list[str]:
    """The srun command that starts the processes inside a job.

    Raises:
        ValueError: if the job has no room for them.
    """
    if job.tasks < shape.world_size:
        raise ValueError(
            f"{shape.nodes} node(s) with {shape.ranks_per_node} rank(s) each were asked for, but job {job.id} has room for {job.tasks}; "
            "for several ranks the rule needs `mpi: srun` beside `nodes` and `tasks_per_node` in the profile"
        )
    cores = [f"--cpus-per-task={job.cores_per_task}"] if job.cores_per_task else []
    return [
        "srun", f"--nodes={shape.nodes}", f"--ntasks={shape.world_size}", f"--ntasks-per-node={shape.ranks_per_node}", *cores,
        "--kill-on-bad-exit=1",  # one rank fails: the others, which would wait for it, end at once
        "--wait=0",  # one rank is done with its share: the others may take as long as they need
        *command,
    ]  # fmt: skip


def deadline(job: OwnJob, now: float) -> float | None:
    """When a command should stop so that its job ends within its limit, in seconds since 1970; None without a limit."""
    return None if job.end is None else job.end - min(MARGIN_SECONDS, MARGIN_SHARE * max(job.end - now, 0.0))


def _launch_srun(shape: Shape, command: Sequence[str]) -> int:
    job, started = own_job(), time.time()
    line = srun_line(shape, job, command)
    # The job's own variables would become options of srun.
    variables = (*KEPT_VARIABLES, "SLURM_JOB_ID")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in variables}
    end = deadline(job, started)
    if end is not None:
        environment["CDGMAE_DEADLINE"] = str(min(end, float(environment.get("CDGMAE_DEADLINE", end))))
    code = _run_group(line, shape, environment, job.id, False)
    if code == EXIT_INTERRUPTED:
        _put_back(time.time() - started)
    return code


def _run_group(line: Sequence[str], shape: Shape, environment: Mapping[str, str], name: str, pass_signals: bool) -> int:
    """Run a launcher's command line; its exit code, or that which a rank noted: see `leave_ranks`."""
    notes = (NOTES_FOLDER / name).absolute()
    shutil.rmtree(notes, ignore_errors=True)  # what a killed run of the same job left
    notes.mkdir(parents=True)
    own = {WORLD_SIZE_VARIABLE: str(shape.world_size), NOTES_VARIABLE: str(notes), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "300"}
    alone = {key: value for key, value in environment.items() if key not in GROUP_VARIABLES}
    try:
        code = _wait_for(subprocess.Popen(line, env=alone | own, stdin=subprocess.DEVNULL), pass_signals)
        # Each by its name: a network file system may list a folder as it was some seconds ago.
        noted = [int(note.read_text()) for rank in range(shape.world_size) if (note := notes / str(rank)).is_file()]
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    # A rank that failed leaves no note, but those that were ended because of it do: the failure counts.
    if noted and (code == 0 or len(noted) == shape.world_size):
        return min(noted)
    return code


def _wait_for(child: subprocess.Popen[bytes], pass_signals: bool) -> int:
    """The exit code of a process. The tasks of a step hear signals from Slurm itself; srun, given one, would end the step."""
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with child:
            for number in STOP_SIGNALS:
                signal.signal(number, lambda number, _: child.send_signal(number) if pass_signals else None)
            code = child.wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def reason_to_stay_out(job: OwnJob, ran_seconds: float) -> str | None:
    """Why a job that stopped early is not put back into the queue, or None if it can be."""
    if job.state != "RUNNING":
        return f"it is {job.state}: cancelled, preempted or at its limit"
    if not job.may_requeue:
        return "it was submitted with --no-requeue"
    if job.restarts >= MAX_RESTARTS:
        return f"it was put back {job.restarts} times already"
    if job.restarts and ran_seconds < SHORT_SECONDS:
        return f"it was put back before and ran for {ran_seconds:.0f} s only; is its time limit too short?"
    return None


def _put_back(ran_seconds: float) -> None:
    """Put this job back into the queue, to go on under the same number, and wait for its end; return if that cannot be."""
    try:
        job = own_job()
        reason = reason_to_stay_out(job, ran_seconds)
        if reason is None:
            logger.info("stopped early with the state saved: job %s goes back into the queue", job.id)
            call_slurm("scontrol", "requeue", job.id)
            time.sleep(REQUEUE_SECONDS)
            reason = "Slurm did not end it"
    except ValueError as error:
        reason = str(error)
    logger.warning("this job does not go back into the queue: %s", reason)
