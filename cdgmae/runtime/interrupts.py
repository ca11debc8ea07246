"""Signals and deadlines: long jobs ask `should_stop()` between steps, save, and leave with a documented exit code."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

EXIT_INTERRUPTED = 85
"""Exit code of a job that saved its state and stopped early: run it again and it continues."""


class Interrupted(RuntimeError):
    """The job stopped early with its state saved; the command line turns this into `EXIT_INTERRUPTED`."""


class StopRequest:
    """Collects reasons to stop: SIGTERM, SIGUSR1, or a deadline in seconds since the start of the process.

    The deadline comes from the environment variable CDGMAE_TIME_LIMIT (seconds) if it is set.
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        limit = os.environ.get("CDGMAE_TIME_LIMIT")
        self._deadline = time.monotonic() + float(limit) if limit else None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._reason = signal.Signals(number).name

    def reason(self) -> str | None:
        """Why the job should stop now, or None."""
        if self._reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._reason = "time limit"
        return self._reason
