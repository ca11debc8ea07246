"""All score tables of a results folder as one data set that is read by column and filtered while it is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds

from cdgmae.consistency.score_tables import SCORE_SCHEMA
from cdgmae.storage.tables import table_facts
from cdgmae.workflow.last_run import how_to_run

Scale = tuple[str | None, int | None, str | None]
"""What must be equal for scores to compare: scoring encoder, image size, features."""


def score_tables(results: Path, source: str | None = None) -> list[Path]:
    """The score tables of one source or of all, in order.

    Args:
        results: Folder with one folder of tables per source.
        source: Name of a source.

    Raises:
        ValueError: if there are none.
    """
    tables = sorted(results.glob(f"{source or '*'}/*.parquet"))
    if not tables:
        known = ", ".join(sorted({path.parent.name for path in results.glob("*/*.parquet")})) or "none"
        raise ValueError(
            f"{results} has no score tables of {f'source {source!r}' if source else 'any source'} (scored sources: {known}); "
            f"{how_to_run('consistency')}, or give --results"
        )
    return tables


def open_scores(tables: list[Path]) -> ds.FileSystemDataset:
    """Score tables as one data set with the columns of `SCORE_SCHEMA`; nothing is read yet."""
    return ds.dataset([str(path) for path in tables], schema=SCORE_SCHEMA, format="parquet")


def scale_of(table: Path) -> Scale:
    """What the scores of a table may be compared with: equal scales."""
    facts = table_facts(table)
    return facts.get("inputs", {}).get("encoder"), facts.get("image_size"), facts.get("features")
