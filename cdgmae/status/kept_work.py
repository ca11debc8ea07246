"""How much of an unfinished job is safe in its work folder: what it need not do again after a kill."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_STATE = re.compile(r"^state-(\d+)\.pt$")
_VIEW = b'"view_index"'


def kept_work(folder: Path) -> str | None:
    """The kept amount with its unit, e.g. `40 steps`; None if there is nothing.

    Args:
        folder: The job's work folder: states of a training, journals of a sampling, parts of a score table, or parts of clips.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return None
    steps = [int(found.group(1)) for path in files if (found := _STATE.match(path.name))]
    counts = {
        "steps": max(steps, default=0),
        "views": sum(_whole_lines(path).count(_VIEW) for path in files if path.suffix == ".jsonl"),
        "pairs": sum(_num_rows(path) for path in files if path.suffix == ".parquet"),
        "clips": sum(path.suffix == ".json" and path.name != "failure.json" for path in files),
    }
    return next((f"{count:,} {unit}" for unit, count in counts.items() if count), None)


def _whole_lines(journal: Path) -> bytes:
    """A journal without the line that is just being written."""
    try:
        return journal.read_bytes().rpartition(b"\n")[0]
    except OSError:  # committed and removed since the folder was listed
        return b""


def _num_rows(part: Path) -> int:
    try:
        return int(pq.read_metadata(part).num_rows)
    except (OSError, pa.ArrowException):  # removed since the folder was listed
        return 0
