"""The summary in a terminal: our sources beside the paper's Tables 1 and 9, with a histogram in block characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cdgmae.consistency.consistency_summary import SUMMARY_SCHEMA, paper_distance
from cdgmae.consistency.query import Matches
from cdgmae.consistency.score_tables import COMPARED, METRICS, QUERY_COLUMNS
from cdgmae.paper import PAPER_TABLES
from cdgmae.storage.tables import read_table

BLOCKS = " ▁▂▃▄▅▆▇█"
NUM_BINS = 48


@dataclass(frozen=True, slots=True)
class ConsistencyDisplay:
    """What `cdgmae consistency show` prints.

    Attributes:
        rows: Rows of the summary, the sources nearest to video frames first, those without a distance last.
        metric: The score of the histograms.
        bin_edges: NUM_BINS + 1 edges shared by all sources.
        histograms: Source -> pairs per bin; only sources whose score tables are there.
    """

    rows: list[dict[str, Any]]
    metric: str
    bin_edges: list[float]
    histograms: dict[str, list[int]]


def read_display(results: Path, metric: str = "nps") -> ConsistencyDisplay:
    """Read the summary and count one score into bins, one score table at a time.

    Args:
        results: Folder with summary.parquet and `{source}/{shard}.parquet`.
        metric: One of `METRICS`.

    Raises:
        ValueError: if the metric is unknown or the summary cannot be read.
    """
    if metric not in METRICS:
        raise ValueError(f"--metric {metric}: no such score; allowed: {', '.join(METRICS)}")
    if not (results / "summary.parquet").is_file():
        raise ValueError(
            f"{results / 'summary.parquet'} does not exist; run `snakemake --cores all consistency` or `cdgmae consistency summarise` first"
        )
    rows = read_table(results / "summary.parquet", SUMMARY_SCHEMA.names).to_pylist()
    rows.sort(key=lambda row: (row["distance"] is None, row["distance"], row["source"]))
    tables = {row["source"]: sorted((results / row["source"]).glob("*.parquet")) for row in rows}
    ranges = [pc.min_max(read_table(path, [metric])[metric]).as_py() for paths in tables.values() for path in paths]
    known = [limits for limits in ranges if limits["min"] is not None]
    low, high = min((limits["min"] for limits in known), default=0.0), max((limits["max"] for limits in known), default=1.0)
    edges = np.linspace(low, high if high > low else low + 1e-3, NUM_BINS + 1)
    histograms = {source: _count(paths, metric, edges) for source, paths in tables.items() if paths}
    return ConsistencyDisplay(rows, metric, edges.tolist(), histograms)


def render_display(display: ConsistencyDisplay, console: Console | None = None) -> None:
    """Print tables and histograms."""
    console = console or Console()
    console.print(_summary_table(display.rows))
    console.print(
        "[dim]Paper: ViT-B/16 MAE on ImageNet-1K. Scores from different encoders live on different scales: compare sources scored by one "
        "encoder with each other, and only their order with the paper. To video: distance of the mean (GS, LS, NPS) to the video source's.[/dim]"
    )
    for source, counts in display.histograms.items():
        console.print(f"\n{display.metric} of [bold]{source}[/bold]", highlight=False)
        console.print(histogram_line(counts), highlight=False)
        low, high = f"{display.bin_edges[0]:.3f}", f"{display.bin_edges[-1]:.3f}"
        console.print(f"{low}{high:>{NUM_BINS - len(low)}}", style="dim", highlight=False)


def render_matches(matches: Matches, strips: Sequence[Path], console: Console | None = None) -> None:
    """Print the found pairs as a table, and where their strips are."""
    console = console or Console()
    table = Table(
        title=f"{matches.total:,} pairs match, {matches.rows.num_rows} shown",
        title_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
    )
    rows = matches.shown()
    columns = ["source", "key", "view_a", "view_b", *METRICS, *(["reason"] if any(row["reason"] for row in rows) else [])]
    for name in columns:
        is_text = name in ("source", "key", "reason")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    console.print(table)
    for path in strips:
        console.print(str(path), highlight=False, soft_wrap=True)


def matches_as_csv(matches: Matches) -> str:
    """The found pairs as CSV with a header."""
    text: str = matches.rows.select(QUERY_COLUMNS).to_pandas().to_csv(index=False, float_format="%.6g")
    return text


def histogram_line(counts: list[int]) -> str:
    """One block character per bin; every bin that holds a pair is visible."""
    top = max(counts, default=0) or 1
    return "".join(BLOCKS[0 if count == 0 else max(1, round(count / top * (len(BLOCKS) - 1)))] for count in counts)


def _count(paths: list[Path], metric: str, edges: np.ndarray[Any, np.dtype[np.float64]]) -> list[int]:
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    for path in paths:
        column: pa.ChunkedArray = read_table(path, [metric])[metric].drop_null()
        counts += np.histogram(column.to_numpy(), bins=edges)[0]
    return [int(count) for count in counts]


def _summary_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="Consistency of view pairs, mean ± deviation, and 95 % interval of the mean",
        title_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("pairs of views")
    for name in ("pairs", "bad", "GS", "LS", "NPS", "NPS reverse", "to video"):
        table.add_column(name, justify="right")
    for row in rows:
        means = (_mean_and_deviation(row, metric) for metric in METRICS)
        table.add_row(row["source"], f"{row['pairs']:,}", str(row["bad"]), *means, _distance(row["distance"]))
        if row["gs_low"] is not None:
            table.add_row("", "", "", *(_interval(row, metric) for metric in METRICS), "", style="dim")
    for printed in (paper_table for paper_table in PAPER_TABLES.values() if paper_table.is_of_sources):
        table.add_section()
        table.add_row(f"paper, {printed.title.partition(':')[0]}")
        for paper in printed.rows.values():
            values = (f"{paper.printed[metric].value:.3f}" for metric in COMPARED)
            table.add_row(f"  {paper.labels[0]}", "", "", *values, "", _distance(paper_distance(paper)), style="dim")
    return table


def _mean_and_deviation(row: dict[str, Any], metric: str) -> str:
    mean = row[f"{metric}_mean"]
    return "none" if mean is None else f"{mean:.3f} ± {row[f'{metric}_std']:.3f}"


def _interval(row: dict[str, Any], metric: str) -> str:
    return f"{row[f'{metric}_low']:.4f}..{row[f'{metric}_high']:.4f}"


def _cell(value: str | int | float | None) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _distance(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
