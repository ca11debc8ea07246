"""All score tables of a results folder as one data set that is read by column and filtered while it is read."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow.dataset as ds

from cdgmae.consistency.score_tables import SCORE_SCHEMA
from cdgmae.storage.tables import table_metadata
from cdgmae.workflow.last_run import how_to_run

logger = logging.getLogger("cdgmae")

Scale = tuple[str | None, int | None, str | None]
"""What must be equal for scores to compare: scoring encoder, image size, features."""


def score_tables(results: Path, source: str | None = None) -> list[Path]:
    """The score tables of one source or of all, in order. Of a source in the summary those that it was made from: a smaller number of shards
    leaves others behind, which are left out and said.

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
    summary = results / "summary.parquet"
    named = {Path(name).parts[-2:] for name in table_metadata(summary).get("inputs", {})} if summary.is_file() else set()
    summarised = {folder for folder, _ in named}
    current = [table for table in tables if table.parent.name not in summarised or table.parts[-2:] in named]
    if len(current) < len(tables):
        logger.warning(
            "%d score table(s) that %s was not made from are left out, e.g. %s; if they belong to it, summarise again",
            len(tables) - len(current), summary, min(set(tables) - set(current)),
        )  # fmt: skip
    return current


def open_scores(tables: list[Path]) -> ds.FileSystemDataset:
    """Score tables as one data set with the columns of `SCORE_SCHEMA`; nothing is read yet."""
    return ds.dataset([str(path) for path in tables], schema=SCORE_SCHEMA, format="parquet")


def scale_of(table: Path) -> Scale:
    """What the scores of a table may be compared with: equal scales."""
    metadata = table_metadata(table)
    return metadata.get("inputs", {}).get("encoder"), metadata.get("image_size"), metadata.get("features")
