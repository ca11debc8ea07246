"""The summary in a terminal: our sources beside the paper's Tables 1 and 9, with a histogram in block characters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from cdgmae.consistency.paper import TABLE_1, TABLE_9
from cdgmae.consistency.summary import SUMMARY_SCHEMA
from cdgmae.consistency.tables import METRICS
from cdgmae.storage.tables import read_table

BLOCKS = " ▁▂▃▄▅▆▇█"
NUM_BINS = 48


@dataclass(frozen=True, slots=True)
class ConsistencyDisplay:
    """What `cdgmae consistency show` prints.

    Attributes:
        rows: Rows of the summary.
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
            f"{results / 'summary.parquet'} does not exist; run `snakemake consistency` or `cdgmae consistency summarise` first"
        )
    rows = read_table(results / "summary.parquet", SUMMARY_SCHEMA.names).to_pylist()
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
        "encoder with each other, and only their order with the paper.[/dim]"
    )
    for source, counts in display.histograms.items():
        console.print(f"\n{display.metric} of [bold]{source}[/bold]", highlight=False)
        console.print(histogram_line(counts), highlight=False)
        low, high = f"{display.bin_edges[0]:.3f}", f"{display.bin_edges[-1]:.3f}"
        console.print(f"{low}{high:>{NUM_BINS - len(low)}}", style="dim", highlight=False)


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
    table = Table(title="Consistency of view pairs, mean ± deviation", title_justify="left")
    table.add_column("pairs of views")
    for name in ("pairs", "bad", "GS", "LS", "NPS", "NPS reverse"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["source"], f"{row['pairs']:,}", str(row["bad"]), *(_mean_and_deviation(row, metric) for metric in METRICS)
        )
    for title, scores in (("Table 1", TABLE_1), ("Table 9", TABLE_9)):
        table.add_section()
        for paper in scores:
            values = (f"{value:.3f}" for value in (paper.gs, paper.ls, paper.nps))
            table.add_row(f"paper, {title}: {paper.views}", "", "", *values, "", style="dim")
    return table


def _mean_and_deviation(row: dict[str, Any], metric: str) -> str:
    mean = row[f"{metric}_mean"]
    return "none" if mean is None else f"{mean:.3f} ± {row[f'{metric}_std']:.3f}"
