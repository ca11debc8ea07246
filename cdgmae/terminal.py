"""Where results are printed, and the one rule for their tables: nothing is cut, whatever the width."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

UNBOUNDED = 10_000
"""Width in characters of what is no terminal: there every row is one line, for programs and for `less -S`."""


def open_console(**options: Any) -> Console:
    """A console on standard output: as wide as the terminal, or as COLUMNS says; in a pipe or a file as wide as what is printed.

    Args:
        options: Of rich's console.
    """
    bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if bounded else UNBOUNDED, **options)


class ResultTable(Table):
    """A table whose cells fold into further lines where the width does not suffice, and are never cut."""

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """See rich."""
        self._let_fold()
        return super().__rich_measure__(console, options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich."""
        self._let_fold()
        yield from super().__rich_console__(console, options)

    def _let_fold(self) -> None:
        for column in self.columns:
            column.overflow, column.no_wrap = "fold", False
