"""Scores in a terminal: our sources beside the paper's Tables 1 and 9 with histograms in block characters, found pairs, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.console import Console

from cdgmae.consistency.consistency_summary import SUMMARY_SCHEMA, paper_distance
from cdgmae.consistency.query import Matches
from cdgmae.consistency.score_tables import COMPARED, METRICS
from cdgmae.consistency.source_comparison import SourceComparison
from cdgmae.paper import PAPER_TABLES
from cdgmae.storage.tables import read_table
from cdgmae.terminal import ResultTable, open_console
from cdgmae.workflow.last_run import how_to_run

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
            f"{results / 'summary.parquet'} does not exist; {how_to_run('consistency')}, or `cdgmae consistency summarise`"
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
    console = console or open_console()
    console.print(_summary_table(display.rows))
    console.print(
        "Paper: ViT-B/16 MAE on ImageNet-1K. Scores from different encoders live on different scales: compare sources scored by one "
        "encoder with each other, and only their order with the paper. To video: distance of the mean (GS, LS, NPS) to the video source's.",
        style="dim",
    )
    for source, counts in display.histograms.items():
        console.print(f"\n{display.metric} of {source}", style="bold")
        console.print(histogram_line(counts))
        low, high = f"{display.bin_edges[0]:.3f}", f"{display.bin_edges[-1]:.3f}"
        console.print(f"{low}{high:>{NUM_BINS - len(low)}}", style="dim")


def render_matches(matches: Matches, strips: Sequence[str], console: Console | None = None) -> None:
    """Print the found pairs as a table, and where their strips are."""
    console = console or open_console()
    rows = matches.shown()
    if not rows:
        console.print(f"No row of {matches.of:,} matches the condition.")
        return
    equal = [name for name in ("source", "view_a", "reason", "class_name") if len({row[name] for row in rows}) == 1]
    hidden = ["status", "encoder", *(name for name in equal if len(rows) > 1 or not rows[0][name])]
    shown = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
    render_rows(f"{matches.total:,} pairs match, {len(rows)} shown", shown, ("source", "key", "class_name", "reason"), console)
    told = [f"{name} {rows[0][name]}" for name in hidden[2:] if rows[0][name] is not None]
    if told:
        console.print(f"Of all that are shown: {', '.join(told)}.", style="dim")
    if len(rows) < matches.total:
        console.print("--limit N shows more; --csv, --json and --output FILE give all of them.", style="dim")
    for path in strips:
        console.print(path, soft_wrap=True)


def render_comparison(compared: SourceComparison, first: str, second: str) -> None:
    """Print one row per score, and on how many bags it rests."""
    rows = [
        {
            "score": metric, first: f"{values.first:.3f}", second: f"{values.second:.3f}", "difference": f"{values.difference:+.4f}",
            "95 % interval": "" if values.low is None else f"{values.low:+.4f} to {values.high:+.4f}",
            "% higher": f"{100 * values.wins_first:.1f} / {100 * values.wins_second:.1f}",
            "r, rank r": "" if values.pearson is None else f"{values.pearson:.2f} / {values.spearman:.2f}",
        }
        for metric, values in compared.metrics.items()
    ]  # fmt: skip
    render_rows(f"{first} and {second} on {compared.bags:,} real images that both have views of", rows, ("score",))
    open_console().print(
        f"Left out, scored in one alone: {compared.only_first:,} of {first}, {compared.only_second:,} of {second}. One value per bag. "
        f"Higher: bags that score higher in {first} / in {second}. Interval: bootstrap over bags. "
        "r, rank r: correlation by Pearson and Spearman.",
        style="dim",
    )


def render_rows(title: str, rows: Sequence[Mapping[str, Any]], text: Sequence[str], console: Console | None = None) -> None:
    """Print rows as a table.

    Args:
        title: What they are.
        rows: Rows of equal keys, which are the headings; floats get four digits.
        text: Columns of names, aligned left; each stays in one line.
        console: Where to.
    """
    table = ResultTable(title=title, title_justify="left", box=SIMPLE_HEAD, collapse_padding=True)
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if name in text else "right", no_wrap=name in text and name != "reason")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    (console or open_console()).print(table)


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


def _summary_table(rows: list[dict[str, Any]]) -> ResultTable:
    table = ResultTable(
        title="Consistency of view pairs, mean ± deviation, and 95 % interval of the mean",
        title_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("pairs of views", no_wrap=True)
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
    return f"{row[f'{metric}_low']:.4f} to {row[f'{metric}_high']:.4f}"


def _cell(value: str | int | float | None) -> str:
    return (
        ""
        if value is None
        else f"{value:.4f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def _distance(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
