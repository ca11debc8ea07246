"""How much of an unfinished job is safe in its work folder: what it need not do again after a kill."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from cdgmae.storage.journal import LINE_SUFFIX

_STATE = re.compile(r"^state-(\d+)\.pt$")
_RECORD = re.compile(rb'^\{"amount": (\d+), .* "unit": "(\w+)"\}$', re.MULTILINE)


def kept_work(folder: Path) -> str | None:
    """The kept amount with its unit, e.g. `40 steps`; None if there is nothing.

    Args:
        folder: The job's work folder: states of a training, or a journal (`cdgmae.storage.journal`).
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return None
    steps = [int(match.group(1)) for path in files if (match := _STATE.match(path.name))]
    counts = Counter({"steps": max(steps, default=0)})
    for path in files:
        if path.suffix == LINE_SUFFIX:
            for amount, unit in _RECORD.findall(_content(path)):
                counts[unit.decode()] += int(amount)
    return next((f"{count:,} {unit}" for unit, count in counts.items() if count), None)


def _content(journal: Path) -> bytes:
    try:
        return journal.read_bytes()
    except OSError:  # committed and removed since the folder was listed
        return b""
