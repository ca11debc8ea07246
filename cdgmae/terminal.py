"""Where results are printed, and the one rule for them: every name comes out as it is, whole, at any width."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table

UNBOUNDED = 10_000
"""Width in characters of what is no terminal: there every row is one line, for programs and for `less -S`."""


class ResultConsole(Console):
    """Nothing in a text is read as markup, and what is wider than a line is left to the terminal to break, which copies it whole."""

    def print(self, *objects: Any, **options: Any) -> None:
        """See rich."""
        super().print(*objects, **{"crop": False, **options})


def open_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or as COLUMNS says; in a pipe or a file as wide as what is printed.

    Args:
        stderr: Print there instead of standard output.
    """
    bounded = (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ
    return ResultConsole(width=None if bounded else UNBOUNDED, stderr=stderr, markup=False, emoji=False, highlight=False)


def key_column(heading: str) -> Column:
    """A column of names that people copy: each stays in one line."""
    return Column(heading, no_wrap=True)


class ResultTable(Table):
    """A table whose cells wrap between words where the width does not suffice; a word is never broken, and nothing is cut.

    A row that is wider even so becomes a long line.
    """

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """See rich."""
        return super().__rich_measure__(console, self._at_least(options))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich."""
        yield from super().__rich_console__(console, self._at_least(options))

    def _at_least(self, options: ConsoleOptions) -> ConsoleOptions:
        """Options of a width that no word exceeds."""
        needed = self._extra_width
        for place, column in enumerate(self.columns):
            texts = [str(cell) for cell in (column.header, *column.cells)]
            pieces = texts if column.no_wrap else [word for text in texts for word in text.split()]
            column.min_width = max(map(cell_len, pieces), default=0)
            column.overflow = "fold"
            needed += column.min_width + self._get_padding_width(place)
        return options.update(width=max(options.max_width, needed))
