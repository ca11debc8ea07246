"""All that is wrong with plain settings at once: what a fault hides is looked for in the settings without it."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from cdgmae.settings.reading.messages import describe_problems, meant_key, place_of

NO_SUCH_NAME = "no such name"
"""In the problem of a reference."""

MOST_ROUNDS = 20
"""Each finds what the faults of the one before hid."""


@dataclass
class TakenOut:
    """What was taken out of settings because it is at fault itself; of what hangs on it nothing can be said.

    Attributes:
        keys: Dotted keys -> whether whole mappings stood there.
        strays: Unknown keys, by their last word: what they hold may be meant to stand elsewhere.
    """

    keys: dict[str, bool] = field(default_factory=dict)
    strays: set[str] = field(default_factory=set)

    def names(self, place: str) -> list[str]:
        """Names of entries that stood below the dotted key `place`."""
        return [key.rpartition(".")[2] for key in self.keys if key.rpartition(".")[0] == place]

    def hides(self, place: str) -> bool:
        """Whether the mapping at the dotted key `place` itself is lost, or one of its name stands elsewhere, e.g. a level too high."""
        return place.rpartition(".")[2] in self.strays or any(f"{place}.".startswith(f"{key}.") for key in self.keys)

    def explains(self, line: str) -> bool:
        """Whether a problem may be there only because something was taken out; names are looked for with `names` and `hides`."""
        if NO_SUCH_NAME in line:
            return any(line.startswith(f"{key} ") for key in self.keys)
        for key, was_mapping in self.keys.items():
            parent, _, word = key.rpartition(".")
            said = rf"\b{re.escape(word).replace('_', '[_ ]')}\b"
            named = rf"{re.escape(repr(word))}|^{re.escape(parent)}\b.*{said}" if was_mapping else said
            if re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)|{named}", line):
                return True
        return False


def all_problems(values: Any, error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line per problem, sorted.

    Args:
        values: The plain settings.
        error: What they were first refused with.
        root: The settings class, which may look at a `TakenOut` in the context of its validation.
    """
    problems, taken, values = set[str](), TakenOut(), copy.deepcopy(values)
    for _ in range(MOST_ROUNDS):
        problems.update(line for line in describe_problems(error, root) if not taken.explains(line))
        faults = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")  # what another misses may be misspelt
        if not sum(_take_out(values, item["loc"], item["type"], root, taken) for item in faults):
            break
        try:
            root.from_plain(values, taken)  # type: ignore[attr-defined]
            break
        except ValidationError as hidden:
            error = hidden
    return sorted(problems)


def _take_out(values: Any, location: tuple[Any, ...], kind: str, root: type[BaseModel], taken: TakenOut) -> bool:
    """Take what stands at `location` out of the values, or write a misspelt key as it was meant; whether anything was there."""
    place = place_of(location[:-1] if kind == "extra_forbidden" else location, root)
    parts = (
        [*place.parts, str(location[-1])] if kind == "extra_forbidden" else place.parts[:-1] if kind == "missing" else place.parts
    )
    inside = values
    if kind == "missing" and _holds(values, place.parts):
        return False
    for depth, part in enumerate(parts):
        if not isinstance(inside, dict) or part not in inside:
            return False
        if depth + 1 < len(parts) and isinstance(inside[part], dict):
            inside = inside[part]
            continue
        former, unknown = inside.pop(part), kind == "extra_forbidden"
        meant = meant_key(part, place.annotation) if unknown else None
        if meant is not None and meant not in inside:
            inside[meant] = former
            return True
        taken.keys[".".join(parts[: depth + 1])] = isinstance(former, dict)
        taken.strays.update([part] if unknown else ())
        return True
    return False


def _holds(values: Any, parts: list[str]) -> bool:
    for part in parts:
        values = values.get(part) if isinstance(values, dict) else None
    return values is not None
