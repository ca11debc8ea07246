"""The summary of score tables: one row per view source, the form of the paper's Tables 1 and 9.

Shapes: B bags, M metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.consistency.bootstrap import mean_intervals
from cdgmae.consistency.score_tables import COMPARED, METRICS
from cdgmae.names import how_to_remake
from cdgmae.paper import PAPER_TABLES, PaperRow
from cdgmae.storage.image_shards import OK
from cdgmae.storage.tables import file_sha256, read_table, table_metadata, write_csv, write_table

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.50, "q75": 0.75, "q95": 0.95}
STATISTICS = ("mean", "low", "high", "std", *QUANTILES)
REFERENCE_KIND = "video"

SUMMARY_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("bags", pa.int64(), nullable=False),
        pa.field("pairs", pa.int64(), nullable=False),
        pa.field("bad", pa.int64(), nullable=False),
        *(pa.field(f"{metric}_{statistic}", pa.float64()) for metric in METRICS for statistic in STATISTICS),
        pa.field("reference", pa.string()),
        pa.field("distance", pa.float64()),
        pa.field("paper", pa.string()),
        *(pa.field(f"paper_{metric}", pa.float64()) for metric in COMPARED),
        pa.field("paper_distance", pa.float64()),
        pa.field("encoder", pa.string()),
    ]
)
"""Columns of the summary. `pairs` counts all pairs, `bad` those without scores; statistics are over the scored ones and
null if there are none; `std` divides by the number of pairs; `low` and `high` bound the 95 % bootstrap interval of the mean over bags.
`distance` is the Euclidean distance of (gs, ls, nps) means to those of `reference`, the first source of kind `video` that was scored
alike, and null without one: the nearer, the more a source's pairs resemble video frames, by which the paper chooses its
generator. `paper` names the row of the paper's Tables 1 and 9 for this kind of source, followed by its values and its distance to the
paper's video frames. `encoder` is the digest of the scoring encoder."""

Scale = tuple[str, int | None, str | None]
"""What must be equal for scores to compare: encoder digest, image size, features."""


@dataclass(slots=True)
class _SourceScores:
    """What is gathered of one source while its tables are read one after the other."""

    kind: str
    bags: int = 0
    pairs: int = 0
    bad: int = 0
    scales: set[Scale] = field(default_factory=set)
    scores: list[npt.NDArray[np.float32]] = field(default_factory=list)  # (M, scored pairs) of each table
    sums_BM: list[npt.NDArray[np.float64]] = field(default_factory=list)
    counts_B: list[npt.NDArray[np.float64]] = field(default_factory=list)


def summarise(tables: Sequence[Path], output_parquet: Path, output_csv: Path) -> dict[str, Any]:
    """Summarise score tables by source; only the needed columns are read, one table at a time.

    Args:
        tables: Score tables of one or more sources, in any order.
        output_parquet: `SUMMARY_SCHEMA`, sorted by source.
        output_csv: The same for people; written first, so that the Parquet file marks both as done.

    Returns:
        `sources`, `pairs` and `bad` in all, and the paths.

    Raises:
        ValueError: if no table is given, or tables of one source were scored by different encoders or settings.
    """
    if not tables:
        raise ValueError("no score tables were given; run `cdgmae consistency score` first and name its outputs")
    rows = describe_sources(tables)
    summary = pa.Table.from_pylist(rows, schema=SUMMARY_SCHEMA)
    write_csv(output_csv, summary)
    write_table(output_parquet, summary, SUMMARY_SCHEMA, inputs={str(path): file_sha256(path) for path in sorted(tables)})
    return {
        "sources": len(rows), "pairs": sum(row["pairs"] for row in rows), "bad": sum(row["bad"] for row in rows),
        "output": str(output_parquet), "csv": str(output_csv),
    }  # fmt: skip


def describe_sources(tables: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of `summarise`, by source; columns without a value may be left out.

    Raises:
        ValueError: if tables of one source were scored by different encoders or settings.
    """
    gathered: dict[str, _SourceScores] = {}
    for path in sorted(tables):
        _gather(path, gathered)
    rows = [_summary_row(name, gathered[name]) for name in sorted(gathered)]
    _add_distances(rows, {name: next(iter(scores.scales), None) for name, scores in gathered.items()})
    return rows


def paper_counterpart(kind: str) -> tuple[str, PaperRow] | None:
    """(number of the table, row) of the paper for a kind of view source, or None if the paper has none."""
    tables = [table for table in PAPER_TABLES.values() if table.is_of_sources]
    rows = ((table.title.partition(":")[0], row) for table in tables for row in table.rows.values())
    return next(((number, row) for number, row in rows if row.kind == kind), None)


def paper_distance(row: PaperRow) -> float:
    """Euclidean distance of a row's (GS, LS, NPS) to those of the paper's video frames."""
    frames = PAPER_TABLES["table1"].rows["video"]
    return math.dist(*([scores.printed[metric].value for metric in COMPARED] for scores in (row, frames)))


def _gather(path: Path, gathered: dict[str, _SourceScores]) -> None:
    table, metadata = read_table(path, ["key", "source", "encoder", "status", *METRICS]), table_metadata(path)
    if table.num_rows == 0:
        if "source" in metadata:
            gathered.setdefault(metadata["source"], _SourceScores(metadata.get("kind", metadata["source"])))
        return
    for name in table["source"].unique().to_pylist():
        part = table.filter(pc.equal(table["source"], name))
        source = gathered.setdefault(name, _SourceScores(metadata.get("kind", name)))
        for encoder in part["encoder"].unique().to_pylist():
            source.scales.add((encoder, metadata.get("image_size"), metadata.get("features")))
        if len(source.scales) > 1:
            alike = ", ".join(
                " ".join(str(value) for value in scale if value is not None) for scale in sorted(source.scales, key=str)
            )
            raise ValueError(
                f"{path}: source {name!r} was scored by different encoders or settings ({alike}), whose scores do not "
                f"compare; {how_to_remake(path)} (so for each older table of it)"
            )
        _gather_rows(part, source)


def _gather_rows(part: pa.Table, source: _SourceScores) -> None:
    """Add the rows of one source in one table, whose rows are sorted by key."""
    keys = part["key"].combine_chunks()
    starts = np.flatnonzero(np.concatenate([[True], pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)]))
    good = pc.equal(part["status"], OK).to_numpy()
    scores_M = np.stack([part[metric].fill_null(0.0).to_numpy() for metric in METRICS])
    source.bags += len(starts)
    source.pairs += part.num_rows
    source.bad += int(part.num_rows - good.sum())
    source.scores.append(scores_M[:, good])
    source.counts_B.append(np.add.reduceat(good.astype(np.float64), starts))
    source.sums_BM.append(np.stack([np.add.reduceat(column.astype(np.float64) * good, starts) for column in scores_M], axis=1))


def _summary_row(name: str, source: _SourceScores) -> dict[str, Any]:
    row: dict[str, Any] = {"source": name, "kind": source.kind, "bags": source.bags, "pairs": source.pairs, "bad": source.bad}
    row["encoder"] = next(iter(source.scales))[0] if source.scales else None
    if (counterpart := paper_counterpart(source.kind)) is not None:
        table, paper = counterpart
        row |= {"paper": f"{table}: {paper.labels[0]}", "paper_distance": paper_distance(paper)}
        row |= {f"paper_{metric}": paper.printed[metric].value for metric in COMPARED}
    if source.pairs == source.bad:
        return row
    intervals = mean_intervals(np.concatenate(source.sums_BM), np.concatenate(source.counts_B), name)
    for index, metric in enumerate(METRICS):
        values = np.concatenate([scores[index] for scores in source.scores])
        low, high = (None if math.isnan(bound) else float(bound) for bound in intervals[:, index])
        row |= {f"{metric}_mean": float(values.mean(dtype=np.float64)), f"{metric}_low": low, f"{metric}_high": high}
        row[f"{metric}_std"] = float(values.std(dtype=np.float64))
        quantiles = np.quantile(values, list(QUANTILES.values()))
        row |= {f"{metric}_{label}": float(value) for label, value in zip(QUANTILES, quantiles, strict=True)}
    return row


def _add_distances(rows: list[dict[str, Any]], scales: dict[str, Scale | None]) -> None:
    """Fill `reference` and `distance` of every source that was scored like a video source."""
    for row in rows:
        like = [
            other for other in rows
            if other["kind"] == REFERENCE_KIND and "gs_mean" in other and scales[other["source"]] == scales[row["source"]]
        ]  # fmt: skip
        if like and "gs_mean" in row:
            row["reference"] = like[0]["source"]
            row["distance"] = math.dist(*([means[f"{metric}_mean"] for metric in COMPARED] for means in (row, like[0])))
