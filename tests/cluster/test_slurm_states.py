"""What the executor is told of jobs that it would wait for for ever."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cdgmae.workflow.messages.slurm_states import correct_job_states

executor = pytest.importorskip("snakemake_executor_plugin_slurm")


def test_cancelled_and_finally_preempted_jobs_are_seen_as_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "query_job_status", executor.query_job_status)
    answer = tmp_path / "answer"

    def look() -> dict[str, str]:
        states, _ = asyncio.run(executor.query_job_status(f"cat {answer}", logging.getLogger("test")))
        return states

    correct_job_states()
    correct_job_states()  # another workflow in the same process
    answer.write_text("1|RUNNING\n2|CANCELLED by 1000\n3|PREEMPTED\n4|PREEMPTED\n")
    assert look() == {"1": "RUNNING", "2": "CANCELLED", "3": "RUNNING", "4": "RUNNING"}
    answer.write_text("1|COMPLETED\n3|PENDING\n4|PREEMPTED\n")
    assert look() == {"1": "COMPLETED", "3": "PENDING", "4": "CANCELLED"}
    assert asyncio.run(executor.query_job_status("false", logging.getLogger("test"))) == (None, None)


def test_without_the_executor_nothing_is_loaded() -> None:
    code = "import sys; from cdgmae.workflow.messages.slurm_states import correct_job_states; correct_job_states(); print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
