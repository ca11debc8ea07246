"""Why Snakemake makes a job again, shorter: the keys that changed instead of two dumps of all settings."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cdgmae.settings.reading.differences import differences, shown_value

PARAMS_CHANGED = "Params have changed since last execution: "
INPUTS_CHANGED = "Set of input files has changed since last execution"
LISTED_FILES = 3
NO_FILE = re.compile(r"Updated input files: ; ")
"""What Snakemake says where every one of them is made by another job of the run, which it names next."""

SOURCES = ("images", "clips")
"""Parameters that stand for the files in a user's folder."""
GIVEN = "given"
"""The parameter that lists what else a user gave, `PATH STATE` each."""


def short_reason(reason: str, params: Mapping[str, Any] | None = None) -> str:
    """A job's reason with the changed keys of its parameters, e.g. `Changed: sampling.num_views: 3 -> 4`.

    Args:
        reason: Parts joined by `; `, as Snakemake gives them. What is not understood stays as it is.
        params: The job's parameters by name; of those that are no settings, only the values are in the reason.
    """
    reason = NO_FILE.sub("", reason)
    start = reason.find(PARAMS_CHANGED)
    if start < 0:
        return reason
    before, now = reason.find("before: ", start), reason.rfind(" now: ")
    if not start < before < now:
        return reason
    end = reason.find(" ; ", now)
    tail = "" if end < 0 else reason[end:].strip()
    old, new = reason[before + len("before: ") : now], reason[now + len(" now: ") : end if end >= 0 else None].rstrip()
    lines = _changed(old, new, params or {}) or [f"{old} -> {new}"]
    return f"{reason[:start]}Changed: {', '.join(lines)}{tail}"


def changed_inputs(before: Sequence[str], now: Sequence[str]) -> str:
    """Which files a job reads that it did not read before, and the other way round."""
    common = {*before} & {*now}
    parts = {
        "New input files": [file for file in now if file not in common],
        "No longer input files": [file for file in before if file not in common],
    }
    return ", ".join(f"{words}: {_listed(files)}" for words, files in parts.items() if files) or INPUTS_CHANGED


def _listed(files: Sequence[str]) -> str:
    more = len(files) - LISTED_FILES
    return ", ".join([*files[:LISTED_FILES], *([f"{more} more"] if more > 0 else [])])


def _changed(old: str, new: str, params: Mapping[str, Any]) -> list[str]:
    """Differences of the settings on both sides, each with the one that shares most keys, then the other parameters that are new."""
    settings, others = _settings_in(old)
    new_settings, new_others = _settings_in(new)
    lines: list[str] = []
    for before in settings:
        if new_settings:
            now = max(new_settings, key=lambda other: len(before.keys() & other.keys()))
            new_settings.remove(now)
            lines += differences(before, now)
    for name, value in params.items():
        if value not in new_others:
            continue
        former = next((other for other in others if type(other) is type(value)), None)
        if former is None:
            continue
        others.remove(former)
        if name == GIVEN:
            lines += [f"{path} was replaced, or files in it were" for path in _other_states(str(former), str(value))]
        elif name not in SOURCES:
            lines.append(f"{name}: {shown_value(former)} -> {shown_value(value)}")
        elif not any(line.startswith(("path: ", "root: ")) for line in lines):  # another folder has other files
            settings = json.loads(params.get("settings", "{}"))
            folder = params.get("root") or settings.get("path") or settings.get("root")
            lines.append(f"files below {folder} were added, removed or replaced")
    return lines


def _other_states(before: str, now: str) -> list[str]:
    """The paths that are in another state; a path that is new is named by its key."""
    states = [dict(part.rpartition(" ")[::2] for part in text.split(", ") if part) for text in (before, now)]
    return [path for path, state in states[1].items() if states[0].get(path, state) != state]


def _is_settings(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("{")


def _settings_in(text: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """The printed parameters: the JSON objects among them, and the rest."""
    try:
        values = list(ast.literal_eval(f"[{text.replace('<nothing exclusive>', '')}]"))
    except (ValueError, SyntaxError):
        return [], []
    settings, others = [], []
    for value in values:
        try:
            parsed = json.loads(value) if _is_settings(value) else None
        except ValueError:
            parsed = None
        settings.append(parsed) if isinstance(parsed, dict) else others.append(value)
    return settings, others
