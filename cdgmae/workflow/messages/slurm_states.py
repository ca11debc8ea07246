"""Job states as Snakemake's Slurm executor should read them: it waits for ever for a job that was preempted with PreemptMode=CANCEL, and,
asking sacct, for one that someone cancelled (`CANCELLED by 1000`)."""

from __future__ import annotations

import sys
from typing import Any


def correct_job_states() -> None:
    """Let the executor (2.8), if it is loaded, see such jobs as cancelled, so that they are submitted again and continue.

    A job that Slurm puts back into the queue after a preemption is pending by the next look; one that is still `PREEMPTED` then has ended.
    """
    executor = sys.modules.get("snakemake_executor_plugin_slurm")
    query = getattr(executor, "query_job_status", None)
    if executor is None or query is None or query.__module__ == __name__:
        return
    seen: set[str] = set()

    async def query_job_status(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await query(command, logger)
        if states is None:
            return states, seconds
        words = {job: state.split(" ")[0] for job, state in states.items()}
        preempted = {job for job, state in words.items() if state == "PREEMPTED"}
        words |= {job: "CANCELLED" if job in seen else "RUNNING" for job in preempted}
        seen.clear()
        seen.update(preempted)
        return words, seconds

    vars(executor)["query_job_status"] = query_job_status
