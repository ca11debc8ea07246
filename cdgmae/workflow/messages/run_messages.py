"""What snakemake says of the jobs of a run, and which of those that failed it tries again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from cdgmae.settings.runtime import FAILS_AGAIN
from cdgmae.workflow.messages.reasons import INPUTS_CHANGED, LISTED_FILES, PARAMS_CHANGED, changed_inputs, short_reason
from cdgmae.workflow.messages.slurm_states import correct_job_states

LAST_LINES = 20
REPORT_PAGE = Path("results/report/index.html")
FORCED = "Forced execution"
NOTHING_TO_DO = "Nothing to be done"
SLURM_WORDS = ("slurmstepd", "slurmd", "srun: ")
"""How lines begin that Slurm itself writes into the log of a job, e.g. that it was killed for lack of memory."""


class RunMessages(logging.Filter):
    """Sees what snakemake logs before anyone else does.

    A failed job is reported with the last lines of its log. One whose log says that it would fail again is not tried again, whatever
    `retries` says; a lost node, a limit or a lack of memory leaves no such word. A warning is said once, not once per job. A run and a dry
    run begin with the keys that changed since the last one. The reason of a job names the keys and input files that changed instead of all
    settings before and now, or what is damaged, and a run without work ends with the report's place, too.
    """

    def __init__(self, workflow: Any, damaged: Mapping[str, str], changes: Callable[[], Iterable[str]]) -> None:
        """Watch a workflow, which need not have a DAG yet; `damaged`: output -> what is wrong with it, `changes`: lines to begin with."""
        super().__init__()
        self._workflow = workflow
        self._damaged = damaged
        self._changes: Callable[[], Iterable[str]] | None = changes
        self._jobs: dict[int, Any] = {}
        self._warnings: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown; that of a failed job is changed."""
        if getattr(record, "event", None) == LogEvent.RUN_INFO and self._changes is not None:
            changes, self._changes = self._changes, None  # a dry run tells what is to do again at its end
            for line in changes():
                logger.info(line)
        if getattr(record, "event", None) == LogEvent.JOB_INFO:
            record.reason = self._reason(record)
        elif str(record.msg).startswith(NOTHING_TO_DO):
            record.msg = "\n".join([record.msg, *([place] if (place := report_place()) is not None else [])])
        if getattr(record, "event", None) == LogEvent.JOB_ERROR:
            self._report(record)
        elif record.levelno == logging.WARNING:
            words = record.getMessage()
            if words in self._warnings:
                return False
            self._warnings.add(words)
        return True

    def _reason(self, record: Any) -> str:
        reason = str(record.reason)
        if not reason.startswith(FORCED) and PARAMS_CHANGED not in reason and INPUTS_CHANGED not in reason:
            return short_reason(reason)
        if record.jobid not in self._jobs:
            self._jobs = {self._workflow.dag.jobid(job): job for job in self._workflow.dag.needrun_jobs()}
        job = self._jobs[record.jobid]
        damages = [self._damaged[output] for output in job.output if output in self._damaged]
        if damages:
            return f"Damaged: {damages[0]}"
        before = next((names for output in job.output if (names := self._workflow.persistence.input(output)) is not None), None)
        if before is not None:
            reason = reason.replace(INPUTS_CHANGED, changed_inputs(before, sorted(map(str, job.input))))
        return short_reason(reason, dict(job.params.items()))

    def _report(self, record: Any) -> None:
        lines = {log: _lines(Path(log)) for log in record.log}  # the rule's, then Slurm's
        if any(FAILS_AGAIN in line for own in lines.values() for line in own):
            self._give_up(record.jobid)
        if len(record.input) > LISTED_FILES:
            record.input = [*record.input[:LISTED_FILES], f"{len(record.input) - LISTED_FILES} more"]
        record.shellcmd = None
        log, own = next(((log, own) for log, own in lines.items() if own), ("log", []))
        of_slurm = [
            line for file_lines in lines.values() if file_lines is not own for line in file_lines if line.startswith(SLURM_WORDS)
        ]
        shown = {f"end of {log}": own[-LAST_LINES:], "Slurm says": of_slurm[-LAST_LINES:]}
        texts = {title: "".join(f"\n        {line}" for line in file_lines) for title, file_lines in shown.items() if file_lines}
        record.aux = {**record.aux, **texts}

    def _give_up(self, number: int) -> None:
        """Let this be a job's last try."""
        for job in list(self._workflow.scheduler.running):
            if self._workflow.dag.jobid(job) == number:
                # Its setter would also forget the resources, which must be given back as they were taken.
                job._attempt = job.restart_times + 1


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []  # the job never began


def report_place() -> str | None:
    """A line that says where the report is; None if there is none."""
    return f"The report: {REPORT_PAGE}" if REPORT_PAGE.is_file() else None


def watch_run(workflow: Any, damaged: Mapping[str, str], changes: Callable[[], Iterable[str]]) -> None:
    """Let `RunMessages` see the log of this run; without effect inside a job, whose log is its own."""
    for former in [one for one in logger.filters if isinstance(one, RunMessages)]:
        logger.removeFilter(former)  # of a workflow that this process ran before
    if workflow.is_main_process:
        logger.addFilter(RunMessages(workflow, damaged, changes))
        correct_job_states()
