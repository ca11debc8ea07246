"""Encoders side by side: a long table with a row per encoder, set and measure, and a wide CSV of it with a row per encoder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of, column_of, table_scores
from cdgmae.propagation.layouts.image_files import show_size
from cdgmae.propagation.measures.score_table import COMMON_COLUMNS
from cdgmae.storage.tables import TableError, file_sha256, read_table, table_metadata, write_csv, write_table

logger = logging.getLogger("cdgmae")

SUMMARY_SCHEMA = pa.schema(
    [
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("seed", pa.int64()),
        pa.field("set", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("sequences", pa.int32(), nullable=False),
        pa.field("scored_sizes", pa.string(), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("encoder_digest", pa.string(), nullable=False),
        pa.field("encoder_settings", pa.string(), nullable=False),
    ]
)
"""`value` is null where nothing could be counted. `sequences` are those behind it; `scored_sizes` the sizes (WIDTHxHEIGHT) at which
predictions were compared with the truth, separated by spaces; `protocol` is JSON: its name and all settings; `encoder_settings` is
JSON: what the encoder is."""


def summarise(tables: Sequence[Path], output_parquet: Path, output_csv: Path) -> dict[str, Any]:
    """Put the tables of several encoders and evaluation sets together.

    Args:
        tables: Outputs of `run_propagation`; encoders and sets appear in the order of their first table.
        output_parquet: `SUMMARY_SCHEMA`.
        output_csv: `wide_rows` for people; written first, so that the Parquet file marks both as done.

    Returns:
        `encoders`, `tables` and the paths.

    Raises:
        ValueError: if no table is given, a table is empty or not of this stage, or an encoder has two tables of one set.
    """
    if not tables:
        raise ValueError("no propagation tables were given; run `cdgmae propagation run` first and name its outputs")
    origins: dict[tuple[str, str], Path] = {}
    conditions: dict[str, dict[str, Any]] = {}
    summary: list[dict[str, Any]] = []
    for path in tables:
        rows = read_rows(path)
        encoder, set_name = rows[0]["encoder"], rows[0]["set"]
        if (encoder, set_name) in origins:
            raise ValueError(
                f"{path} and {origins[encoder, set_name]} both hold encoder {encoder!r} on {set_name}; "
                "leave one out or evaluate with another --name"
            )
        origins[encoder, set_name] = path
        _warn_if_different(path, set_name, conditions.setdefault(set_name, conditions_of(rows)), conditions_of(rows))
        judged = json.dumps(table_metadata(path)["encoder_settings"], sort_keys=True)
        summary += [{**row, "encoder_settings": judged} for row in summary_rows(rows)]
    write_csv(output_csv, pa.Table.from_pylist(wide_rows(summary), schema=_wide_schema(summary)))
    write_table(output_parquet, summary, SUMMARY_SCHEMA, inputs={str(path): file_sha256(path) for path in tables})
    encoders = {encoder for encoder, _ in origins}
    return {"encoders": len(encoders), "tables": len(tables), "output": str(output_parquet), "csv": str(output_csv)}


def summary_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `SUMMARY_SCHEMA` without `encoder_settings`, one per measure, from all rows of one table."""
    first = rows[0]
    names = ("encoder", "seed", "set", "kind", "protocol", "encoder_digest")
    sizes = sorted({(row["scored_height"], row["scored_width"]) for row in rows})
    common = {name: first[name] for name in names} | {
        "sequences": len({row["sequence"] for row in rows}), "scored_sizes": " ".join(map(show_size, sizes))
    }  # fmt: skip
    scores = table_scores(rows)
    return [
        {**common, "measure": measure.name, "unit": measure.unit, "value": _number(scores[measure.name])}
        for measure in benchmark_of(first["kind"]).measures
    ]


def wide_rows(summary: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per encoder, a column per measure (`cdgmae.propagation.benchmarks.benchmark_kinds.column_of`), from rows of `SUMMARY_SCHEMA`."""
    encoders: dict[str, dict[str, Any]] = {}
    for row in summary:
        wide = encoders.setdefault(row["encoder"], {"encoder": row["encoder"]})
        wide[column_of(row["set"], row["kind"], row["measure"])] = row["value"]
    return list(encoders.values())


def _wide_schema(summary: Sequence[Mapping[str, Any]]) -> pa.Schema:
    columns = dict.fromkeys(column_of(row["set"], row["kind"], row["measure"]) for row in summary)
    return pa.schema([("encoder", pa.string()), *((column, pa.float64()) for column in columns)])


def _number(value: float) -> float | None:
    return None if value != value else value  # not a number


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of one table.

    Raises:
        TableError: if the file is no table of one encoder on one evaluation set.
    """
    table = read_table(path)
    rows: list[dict[str, Any]] = table.to_pylist() if set(COMMON_COLUMNS) <= set(table.column_names) else []
    if len({(row["encoder"], row["set"], row["kind"]) for row in rows}) != 1:
        raise TableError(
            f"{path} is no propagation table of one encoder and one evaluation set; give files that `cdgmae propagation run` wrote"
        )
    return rows


def conditions_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What must be equal for two tables to compare: the protocol wherever the clips lie, the sequences, and the scored sizes."""
    protocol = json.loads(rows[0]["protocol"])
    protocol.pop("root", None)
    sizes = {row["sequence"]: (row["scored_height"], row["scored_width"]) for row in rows}
    return {"protocol": protocol, "sequences": sorted(sizes), "size of the ground truth": sizes}


def _warn_if_different(path: Path, set_name: str, first: dict[str, Any], other: dict[str, Any]) -> None:
    different = [name for name, value in first.items() if other[name] != value]
    if different:
        logger.warning(
            "%s: measured with another %s than the first table of %s; the scores do not compare", path, different[0], set_name
        )
