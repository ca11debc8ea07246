"""Commands side by side within a time budget, in forked processes, so that none waits for its imports.

The parent imports what the stages need and never touches a GPU: a process that has opened one cannot be forked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdgmae.runtime.interrupts import EXIT_INTERRUPTED
from perf.study.jobs import Job

GRACE_SECONDS = 15.0
"""From the request to stop until a job that still runs is killed; what it kept before stays."""

POLL_SECONDS = 0.05


def preload() -> None:
    """Import what the jobs need, once."""
    import cdgmae.cli
    import cdgmae.consistency.scoring.score_shard
    import cdgmae.generators.train.generator_training
    import cdgmae.pretrain.run
    import cdgmae.propagation.evaluation
    import cdgmae.shards.packing
    import cdgmae.views.sampling.generator_sampler
    import cdgmae.views.sampling.sample_shard  # noqa: F401


@dataclass(slots=True)
class Outcome:
    """What became of the jobs.

    Attributes:
        seconds: Job -> how long it took, of those that were done here.
        failed: Job -> the end of its log.
        left_out: Jobs that did not start or were stopped.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    started: float
    log: Path


def run_jobs(jobs: Sequence[Job], slots: int, deadline: float, say: Callable[[str], None]) -> Outcome:
    """Run jobs as soon as what they read is there, the urgent ones first.

    Args:
        jobs: All jobs; those whose outputs are there are skipped.
        slots: How many run at the same time.
        deadline: Of `time.monotonic`: nothing starts later, and what runs is asked to stop. Returns at most `GRACE_SECONDS` after it.
        say: Gets a line per job that ended.
    """
    outcome, running = Outcome(), dict[int, _Running]()
    waiting = sorted((job for job in jobs if not job.is_done), key=lambda job: job.urgency)
    try:
        while (waiting or running) and time.monotonic() < deadline:
            busy = {path for one in running.values() for path in one.job.outputs}
            for job in [job for job in waiting if job.can_start and not busy & set(job.inputs)][: slots - len(running)]:
                waiting.remove(job)
                running |= _start(job)
            if not running:
                break  # what is left waits for something that failed
            _collect(running, outcome, say)
            time.sleep(POLL_SECONDS)
    finally:
        _stop(running, outcome, say)
    outcome.left_out += [job.name for job in waiting]
    return outcome


def _start(job: Job) -> dict[int, _Running]:
    log = Path("logs") / f"{job.name.replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        _become(job, log)
    return {pid: _Running(job, time.monotonic(), log)}


def _become(job: Job, log: Path) -> None:
    """In the child: run the command with its output in the log, and end."""
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with log.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        from cdgmae.cli import main

        sys.argv = ["cdgmae", *job.arguments()]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _collect(running: dict[int, _Running], outcome: Outcome, say: Callable[[str], None]) -> None:
    """Take the jobs that have ended out of `running`."""
    for pid, one in list(running.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            continue
        del running[pid]
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - one.started
        if code == 0 and one.job.is_done:
            outcome.seconds[one.job.name] = seconds
            say(f"{one.job.name}: {seconds:.1f} s")
        elif code in (EXIT_INTERRUPTED, -signal.SIGKILL, -signal.SIGTERM):
            outcome.left_out.append(one.job.name)
            say(f"{one.job.name}: stopped after {seconds:.1f} s, its state is kept")
        else:
            outcome.failed[one.job.name] = one.log.read_text(encoding="utf-8", errors="replace")[-1500:]
            say(f"{one.job.name}: FAILED with exit code {code}, see {one.log}")


def _stop(running: dict[int, _Running], outcome: Outcome, say: Callable[[str], None]) -> None:
    """Ask what still runs to stop, and end it with its own processes after the grace time."""
    asked = time.monotonic()
    for pid in running:
        os.kill(pid, signal.SIGTERM)
    while running:
        if time.monotonic() - asked > GRACE_SECONDS:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        _collect(running, outcome, say)
        time.sleep(POLL_SECONDS)
