"""Encoders side by side: one row per encoder, the columns of the paper's Table 5."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdgmae.propagation.scores import SCORE_COLUMNS, table_scores
from cdgmae.storage.tables import TableError, file_sha256, read_table, write_csv, write_table

logger = logging.getLogger("cdgmae")

SUMMARY_SCHEMA = pa.schema(
    [pa.field("encoder", pa.string(), nullable=False), *(pa.field(name, pa.float64()) for name in SCORE_COLUMNS)]
)
"""Scores in percent; null where an encoder was not evaluated on that clip set."""


def summarise(tables: Sequence[Path], output_parquet: Path, output_csv: Path) -> dict[str, Any]:
    """Put the tables of several encoders and clip sets side by side.

    Args:
        tables: Outputs of `run_propagation`; encoders appear in the order of their first table.
        output_parquet: `SUMMARY_SCHEMA`.
        output_csv: The same for people; written first, so that the Parquet file marks both as done.

    Returns:
        `encoders`, `tables` and the paths.

    Raises:
        ValueError: if no table is given, a table is empty or not of this stage, or an encoder has two tables of one clip set.
    """
    if not tables:
        raise ValueError("no propagation tables were given; run `cdgmae propagation run` first and name its outputs")
    scores: dict[str, dict[str, Any]] = {}
    origins: dict[tuple[str, str], Path] = {}
    protocols: dict[str, str] = {}
    for path in tables:
        rows = read_table(path).to_pylist()
        names = {(row.get("encoder"), row.get("clip_set")) for row in rows}
        if len(names) != 1 or None in (key := names.pop()):
            raise TableError(
                f"{path} is no propagation table of one encoder and one clip set; give files that `cdgmae propagation run` wrote"
            )
        if key in origins:
            raise ValueError(
                f"{path} and {origins[key]} both hold encoder {key[0]!r} on {key[1]}; leave one out or evaluate with another --name"
            )
        origins[key] = path
        encoder, clip_set = key
        if protocols.setdefault(clip_set, rows[0]["protocol"]) != rows[0]["protocol"]:
            logger.warning(
                "%s: measured with another protocol than the other tables of %s; the scores do not compare", path, clip_set
            )
        scores.setdefault(encoder, {"encoder": encoder}).update(table_scores(rows))
    summary = pa.Table.from_pylist(list(scores.values()), schema=SUMMARY_SCHEMA)
    write_csv(output_csv, summary)
    write_table(output_parquet, summary, SUMMARY_SCHEMA, inputs={str(path): file_sha256(path) for path in tables})
    return {"encoders": len(scores), "tables": len(tables), "output": str(output_parquet), "csv": str(output_csv)}
