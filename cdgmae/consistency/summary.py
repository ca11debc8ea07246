"""The summary of score tables: one row per view source, the form of the paper's Tables 1 and 9."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.consistency.tables import METRICS
from cdgmae.storage.picture_shards import OK
from cdgmae.storage.tables import file_sha256, read_table, table_facts, write_csv, write_table

QUANTILES = {"q05": 0.05, "q50": 0.50, "q95": 0.95}
STATISTICS = ("mean", "std", *QUANTILES)

SUMMARY_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("pairs", pa.int64(), nullable=False),
        pa.field("bad", pa.int64(), nullable=False),
        *(pa.field(f"{metric}_{statistic}", pa.float64()) for metric in METRICS for statistic in STATISTICS),
        pa.field("encoder", pa.string()),
    ]
)
"""Columns of the summary. `pairs` counts all pairs, `bad` those without scores; statistics are over the scored ones and
null if there are none; `std` divides by the number of pairs; `encoder` is the digest of the scoring encoder."""


@dataclass(slots=True)
class _SourceScores:
    """What is gathered of one source while its tables are read one after the other."""

    pairs: int = 0
    bad: int = 0
    encoders: set[str] = field(default_factory=set)
    scores: dict[str, list[npt.NDArray[np.float32]]] = field(default_factory=lambda: defaultdict(list))


def summarise(tables: Sequence[Path], output_parquet: Path, output_csv: Path) -> dict[str, Any]:
    """Summarise score tables by source; only the needed columns are read, one table at a time.

    Args:
        tables: Score tables of one or more sources, in any order.
        output_parquet: `SUMMARY_SCHEMA`, sorted by source.
        output_csv: The same for people; written first, so that the Parquet file marks both as done.

    Returns:
        `sources`, `pairs` and `bad` in all, and the paths.

    Raises:
        ValueError: if no table is given, or tables of one source were scored by different encoders.
    """
    if not tables:
        raise ValueError("no score tables were given; run `cdgmae consistency score` first and name its outputs")
    gathered: dict[str, _SourceScores] = {}
    for path in sorted(tables):
        _gather(path, gathered)
    rows = [_summary_row(name, gathered[name]) for name in sorted(gathered)]
    summary = pa.Table.from_pylist(rows, schema=SUMMARY_SCHEMA)
    write_csv(output_csv, summary)
    write_table(output_parquet, summary, SUMMARY_SCHEMA, inputs={str(path): file_sha256(path) for path in sorted(tables)})
    return {
        "sources": len(rows), "pairs": sum(row["pairs"] for row in rows), "bad": sum(row["bad"] for row in rows),
        "output": str(output_parquet), "csv": str(output_csv),
    }  # fmt: skip


def _gather(path: Path, gathered: dict[str, _SourceScores]) -> None:
    table = read_table(path, ["source", "encoder", "status", *METRICS])
    if table.num_rows == 0:
        name = table_facts(path).get("source")
        if name is not None:
            gathered.setdefault(name, _SourceScores())
        return
    for name in table["source"].unique().to_pylist():
        part = table.filter(pc.equal(table["source"], name))
        good = part.filter(pc.equal(part["status"], OK))
        source = gathered.setdefault(name, _SourceScores())
        source.pairs += part.num_rows
        source.bad += part.num_rows - good.num_rows
        source.encoders.update(part["encoder"].unique().to_pylist())
        if len(source.encoders) > 1:
            raise ValueError(
                f"{path}: source {name!r} was scored by different encoders ({', '.join(sorted(source.encoders))}), whose scores do not "
                "compare; delete the older tables and score the source again"
            )
        for metric in METRICS:
            source.scores[metric].append(good[metric].to_numpy())


def _summary_row(name: str, source: _SourceScores) -> dict[str, Any]:
    row: dict[str, Any] = {"source": name, "pairs": source.pairs, "bad": source.bad, "encoder": next(iter(source.encoders), None)}
    for metric in METRICS:
        values = np.concatenate(source.scores[metric] or [np.empty(0, np.float32)])
        if not values.size:
            continue
        row[f"{metric}_mean"], row[f"{metric}_std"] = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        quantiles = np.quantile(values, list(QUANTILES.values()))
        row.update({f"{metric}_{label}": float(value) for label, value in zip(QUANTILES, quantiles, strict=True)})
    return row
