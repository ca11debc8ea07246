"""What differs between two nested settings, one line per key: `views.sources.s_ldm.sampling.num_views: 3 -> 4`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = object()
SHOWN_CHARACTERS = 120


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Lines for the keys that are not the same, in the order of the old settings; a whole mapping that came or went is one line.

    Args:
        old: Plain values.
        new: Plain values.
        prefix: What the keys begin with.
    """
    for name in dict.fromkeys([*old, *new]):
        before, after, key = old.get(name, _ABSENT), new.get(name, _ABSENT), f"{prefix}{name}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{key}.")
        elif before != after:
            yield f"{key}: {shown_value(before)} -> {shown_value(after)}"


def shown_value(value: Any) -> str:
    """A value for people: texts as they are, all else as JSON, cut where it is long."""
    if value is _ABSENT:
        return "(not there)"
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
