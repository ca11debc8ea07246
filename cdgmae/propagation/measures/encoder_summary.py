"""Encoders side by side: one row per encoder, the columns of the paper's Table 5."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdgmae.propagation.measures.score_schema import TABLE_SCHEMA
from cdgmae.propagation.measures.scores import SCORE_COLUMNS, table_scores
from cdgmae.storage.tables import TableError, file_sha256, read_table, write_csv, write_table

logger = logging.getLogger("cdgmae")

SUMMARY_SCHEMA = pa.schema(
    [pa.field("encoder", pa.string(), nullable=False), *(pa.field(name, pa.float64()) for name in SCORE_COLUMNS)]
)
"""Scores in percent; null where an encoder was not evaluated on that clip set. The metadata hold the conditions of each clip set:
protocol, number of sequences and the sizes (height, width) at which predictions were compared with the truth."""


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
    conditions: dict[str, dict[str, Any]] = {}
    for path in tables:
        encoder, clip_set, rows = _read_rows(path)
        if (encoder, clip_set) in origins:
            raise ValueError(
                f"{path} and {origins[encoder, clip_set]} both hold encoder {encoder!r} on {clip_set}; "
                "leave one out or evaluate with another --name"
            )
        origins[encoder, clip_set] = path
        _warn_if_different(path, clip_set, conditions.setdefault(clip_set, _conditions(rows)), _conditions(rows))
        scores.setdefault(encoder, {"encoder": encoder}).update(table_scores(rows))
    summary = pa.Table.from_pylist(list(scores.values()), schema=SUMMARY_SCHEMA)
    write_csv(output_csv, summary)
    write_table(
        output_parquet, summary, SUMMARY_SCHEMA,
        inputs={str(path): file_sha256(path) for path in tables},
        extra={"conditions": {clip_set: _describe(found) for clip_set, found in conditions.items()}},
    )  # fmt: skip
    return {"encoders": len(scores), "tables": len(tables), "output": str(output_parquet), "csv": str(output_csv)}


def _read_rows(path: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """Encoder, clip set and rows of one table.

    Raises:
        TableError: if the file is no table of one encoder on one clip set.
    """
    table = read_table(path)
    rows = table.to_pylist() if set(TABLE_SCHEMA.names) <= set(table.column_names) else []
    names = {(row["encoder"], row["clip_set"]) for row in rows}
    if len(names) != 1:
        raise TableError(
            f"{path} is no propagation table of one encoder and one clip set; give files that `cdgmae propagation run` wrote"
        )
    encoder, clip_set = names.pop()
    return encoder, clip_set, rows


def _conditions(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What must be equal for two tables to compare: the protocol wherever the clips lie, the sequences, and the scored sizes."""
    protocol = json.loads(rows[0]["protocol"])
    protocol.pop("root", None)
    sizes = {row["sequence"]: (row["scored_height"], row["scored_width"]) for row in rows}
    return {"protocol": protocol, "sequences": sorted(sizes), "size of the ground truth": sizes}


def _describe(conditions: dict[str, Any]) -> dict[str, Any]:
    sizes = sorted(set(conditions["size of the ground truth"].values()))
    return {"protocol": conditions["protocol"], "sequences": len(conditions["sequences"]), "scored_sizes": sizes}


def _warn_if_different(path: Path, clip_set: str, first: dict[str, Any], found: dict[str, Any]) -> None:
    different = [name for name, value in first.items() if found[name] != value]
    if different:
        logger.warning(
            "%s: measured with another %s than the first table of %s; the scores do not compare", path, different[0], clip_set
        )
