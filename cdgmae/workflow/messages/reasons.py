"""Why Snakemake makes a job again, shorter: the keys that changed instead of two dumps of all settings."""

from __future__ import annotations

import json
from typing import Any

from cdgmae.settings.reading.differences import differences

PARAMS_CHANGED = "Params have changed since last execution: "


def short_reason(reason: str) -> str:
    """A job's reason with the changed keys of its parameters, e.g. `Changed: sampling.num_views: 3 -> 4`.

    Args:
        reason: Parts joined by `; `, as Snakemake gives them. What is not understood stays as it is.
    """
    start = reason.find(PARAMS_CHANGED)
    if start < 0:
        return reason
    before, now = reason.find("before: ", start), reason.rfind(" now: ")
    if not start < before < now:
        return reason
    end = reason.find(" ; ", now)
    tail = "" if end < 0 else reason[end:].strip()
    old, new = reason[before + len("before: ") : now], reason[now + len(" now: ") : end if end >= 0 else None].rstrip()
    lines = _changed(_settings_in(old), _settings_in(new)) or [f"{old} -> {new}"]
    return f"{reason[:start]}Changed: {', '.join(lines)}{tail}"


def _changed(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """Differences of the settings on both sides, each with the one that shares most keys; nothing if they cannot be paired."""
    if not old or len(old) != len(new):
        return []
    pairs = [(settings, max(new, key=lambda other: len(settings.keys() & other.keys()))) for settings in old]
    return [line for before, now in pairs for line in differences(before, now)]


def _settings_in(text: str) -> list[dict[str, Any]]:
    """The JSON objects among the printed parameters."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while (place := text.find("{", place)) >= 0:
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError:
            place += 1
            continue
        found.append(value)
    return found
