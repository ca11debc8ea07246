"""What a command line says of where results come from: the words that decide them, and the files and folders that these name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

OPTIONS_WITHOUT_INFLUENCE = (
    "--output", "--work", "--threads", "--batch-size", "--max-bad-fraction", "--runtime", "--tracker-dir",
)  # fmt: skip
"""Options of the commands that say where and how fast, never what."""

_arguments: list[str] = []


def note_command_line(arguments: Sequence[str]) -> None:
    """Remember the arguments of the command that runs now."""
    _arguments[:] = arguments


def command_line() -> list[str]:
    """The arguments of the command that runs now; none if no command does."""
    return list(_arguments)


def option_values(arguments: Sequence[str], name: str) -> list[str]:
    """The values of an option, in order."""
    return [value for word, value in pairwise(arguments) if word == name]


def influential_words(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments of a command without the options, and their values, that change no result."""
    rest = iter(arguments)
    for word in rest:
        if word in OPTIONS_WITHOUT_INFLUENCE:
            next(rest, None)
        else:
            yield word


def paths_of(word: str) -> list[Path]:
    """The files and folders that an argument names: itself, `NAME=PATH`, `NAME@PATH`, the same with `?hints`, or strings in JSON settings."""
    if word.startswith("{"):
        return list(_paths_in(json.loads(word)))
    for separator in ("", "=", "@"):
        path = word.rpartition(separator)[2] if separator else word
        for named in (path, path.partition("?")[0]):
            if "/" in named and os.path.exists(named):
                return [Path(named)]
    return []


def _paths_in(settings: Any) -> Iterator[Path]:
    """The files and folders that exist among the strings of some settings."""
    if isinstance(settings, str) and os.path.exists(settings):
        yield Path(settings)
    if isinstance(settings, dict | list):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from _paths_in(value)
