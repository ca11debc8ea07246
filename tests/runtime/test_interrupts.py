"""Signals and deadlines ask a job to stop; they never stop it by themselves."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from cdgmae.runtime.interrupts import StopRequest
from cdgmae.runtime.progress import ProgressMeter


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_noted(number: signal.Signals) -> None:
    stop = StopRequest()
    assert stop.reason() is None
    os.kill(os.getpid(), number)
    assert stop.reason() == number.name


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
