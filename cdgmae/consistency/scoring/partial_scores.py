"""Finished parts of an unfinished score table, undeclared, in the job's work folder.

A part is the table of a fixed run of keys, written like any table: it is there whole or not at all. Which keys it holds
follows from the bags and the settings alone, so that an interrupted and a straight run compute the same passes and end with the
same table.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cdgmae.consistency.score_tables import SCORE_SCHEMA
from cdgmae.consistency.scoring.pair_images import BagLoader
from cdgmae.storage.tables import TableError, read_table, table_facts, write_table

PASSES_PER_PART = 8
"""Encoder passes between two parts: little is lost to a kill, and writing costs next to nothing."""


def plan_parts(bags: BagLoader, batch_size: int) -> list[list[str]]:
    """Keys of each part: whole bags, up to `PASSES_PER_PART` passes of images (at least one bag)."""
    parts: list[list[str]] = []
    limit, images = PASSES_PER_PART * batch_size, 0
    for key in bags.keys:
        size = len(bags.view_indices(key))
        if not parts or images + size > limit:
            parts.append([])
            images = 0
        parts[-1].append(key)
        images += size
    return parts


@dataclass(frozen=True, slots=True)
class PartFolder:
    """The parts in one work folder.

    Attributes:
        folder: Where they lie.
        identity: What the scores depend on; parts of another identity are made again.
    """

    folder: Path
    identity: str

    def read(self, number: int) -> pa.Table | None:
        """One finished part, or None if there is none of this identity."""
        path = self._path(number)
        try:
            return (
                read_table(path, SCORE_SCHEMA.names)
                if path.is_file() and table_facts(path).get("identity") == self.identity
                else None
            )
        except TableError:
            return None

    def write(self, number: int, table: pa.Table) -> None:
        """Keep a finished part: after this returns, a kill no longer loses it."""
        write_table(self._path(number), table, SCORE_SCHEMA, extra={"identity": self.identity})

    def remove(self) -> None:
        """Remove all parts: their table is committed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"


def join_parts(parts: Sequence[pa.Table]) -> pa.Table:
    """All parts as one table."""
    return pa.concat_tables(
        [part.select(SCORE_SCHEMA.names).cast(SCORE_SCHEMA) for part in parts] or [SCORE_SCHEMA.empty_table()]
    )
