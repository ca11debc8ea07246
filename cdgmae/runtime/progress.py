"""Progress: a live bar on a terminal, one line per interval in a log file."""

from __future__ import annotations

import logging
import re
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("cdgmae")


_START = re.compile(r" INFO (?P<task>.+): (?P<total>\d+) (?P<unit>[a-z ]+?)(?:, (?P<done>\d+) already done)?$")
_LINE = re.compile(
    r" INFO (?P<task>.+): (?P<done>\d+)/(?P<total>\d+) (?P<unit>[a-z ]+), (?P<rate>[0-9.e+-]+)/s, (?:(?P<left>\d+) s left|rate unknown)"
)


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job was when it wrote its last progress line.

    Attributes:
        task: What is being done.
        done: Finished items.
        total: Items in all.
        unit: What an item is, plural.
        rate: Items per second; None at the start.
        seconds_left: Time to the end, counted from that line; None if unknown.
    """

    task: str
    done: int
    total: int
    unit: str
    rate: float | None = None
    seconds_left: float | None = None


def last_progress(log: str) -> JobProgress | None:
    """The newest progress line of a `ProgressMeter` in the text of a log; None if there is none."""
    for line in reversed(log.splitlines()):
        match = _LINE.search(line) or _START.search(line)
        if match is not None:
            parts = match.groupdict()
            rate, left = parts.get("rate"), parts.get("left")
            return JobProgress(
                parts["task"], int(parts["done"] or 0), int(parts["total"]), parts["unit"],
                float(rate) if rate else None, float(left) if left else None,
            )  # fmt: skip
    return None


class ProgressMeter:
    """Counts finished items of one task and shows rate and remaining time.

    On a terminal this is a bar; elsewhere one log line at the start, per interval, and at the end.
    """

    def __init__(
        self, task: str, total: int, *, done: int = 0, unit: str = "items", interval_seconds: float = 30.0, silent: bool = False
    ) -> None:
        """Start counting.

        Args:
            task: What is being done, in a few words.
            total: Items in all, those already done included.
            done: Items found finished at the start (resumed work); they do not count into the rate.
            unit: What an item is, plural.
            interval_seconds: Time between two log lines.
            silent: Show nothing: another process speaks for this one.
        """
        self._silent = silent
        self.task, self.total, self.done, self.unit, self.interval = task, total, done, unit, interval_seconds
        self._first, self._started, self._last_line = done, time.monotonic(), time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty() and not silent:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._row = self._bar.add_task(task, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        if self._bar is None and not self._silent:
            resumed = f", {self.done} already done" if self.done else ""
            logger.info("%s: %d %s%s", self.task, self.total, self.unit, resumed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and not self._silent:
            self._line("")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more finished items; `note` (e.g. the loss) is shown beside the numbers."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._row, completed=self.done, note=note)
        elif not self._silent and time.monotonic() - self._last_line >= self.interval:
            self._line(note)

    def _line(self, note: str) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._started
        rate = (self.done - self._first) / elapsed if elapsed > 0 else 0.0
        remaining = f"{(self.total - self.done) / rate:.0f} s left" if rate > 0 else "rate unknown"
        logger.info(
            "%s: %d/%d %s, %.3g/s, %s%s",
            self.task,
            self.done,
            self.total,
            self.unit,
            rate,
            remaining,
            f", {note}" if note else "",
        )
