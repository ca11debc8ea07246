"""Signals and deadlines ask a job to stop; they never stop it by themselves."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import pytest

from cdgmae.runtime.interrupts import EXIT_INTERRUPTED, StopRequest
from cdgmae.runtime.progress import ProgressMeter


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_noted(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.reason() is None
        with stop:  # a stage that was handed its caller's
            pass
        os.kill(os.getpid(), number)
        assert stop.reason() == number.name
    assert signal.getsignal(number) is former


def test_time_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDGMAE_TIME_LIMIT", "1000")
    assert StopRequest().reason() is None
    monkeypatch.setenv("CDGMAE_TIME_LIMIT", "0")
    assert StopRequest().reason() == "time limit"


def test_progress_writes_one_line_per_interval_and_counts_resumed_work(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "cdgmae"),
        ProgressMeter("sample", 10, done=4, unit="views", interval_seconds=3600) as meter,
    ):
        for _ in range(6):
            meter.advance(note="fine")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "sample: 10 views, 4 already done"
    assert len(lines) == 2
    assert lines[1].startswith("sample: 10/10 views, ")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_before_the_work_begins_means_run_it_again(number: signal.Signals) -> None:
    program = (
        "import os, sys; from cdgmae.cluster.ranks import join_ranks; join_ranks(['pretrain', 'run']); "
        "os.kill(os.getpid(), int(sys.argv[1]))"
    )
    environment = os.environ | {"CDGMAE_WORLD_SIZE": "1"}
    done = subprocess.run([sys.executable, "-c", program, str(int(number))], capture_output=True, text=True, env=environment)
    assert done.returncode == EXIT_INTERRUPTED
    assert done.stderr.startswith(f"stopped early: {number.name} came before the work began")
