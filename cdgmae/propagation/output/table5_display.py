"""The summary in a terminal: our encoders above the paper's Table 5, and how they were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cdgmae.paper import PAPER_TABLES
from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of, column_of
from cdgmae.propagation.measures.encoder_summary import SUMMARY_SCHEMA, wide_rows
from cdgmae.storage.tables import read_table
from cdgmae.terminal import ResultTable, open_console
from cdgmae.workflow.last_run import how_to_run


@dataclass(frozen=True, slots=True)
class PropagationDisplay:
    """What `cdgmae propagation show` prints.

    Attributes:
        summary: Rows of the long summary.
    """

    summary: list[dict[str, Any]]

    @property
    def columns(self) -> list[str]:
        """Columns of the wide summary that are shown, e.g. those of Table 5."""
        shown = {
            (kind, measure.name)
            for kind in {row["kind"] for row in self.summary}
            for measure in benchmark_of(kind).measures
            if measure.shown
        }
        rows = [row for row in self.summary if (row["kind"], row["measure"]) in shown]
        return list(dict.fromkeys(column_of(row["set"], row["kind"], row["measure"]) for row in rows))

    @property
    def conditions(self) -> dict[str, str]:
        """Set -> how it was measured, by its first row."""
        first: dict[str, str] = {}
        for row in self.summary:
            first.setdefault(row["set"], describe_conditions(row))
        return first


def read_display(results: Path) -> PropagationDisplay:
    """Read a summary.

    Args:
        results: Folder with summary.parquet, or that file.

    Raises:
        ValueError: if there is no summary or it cannot be read.
    """
    path = results if results.suffix == ".parquet" else results / "summary.parquet"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; {how_to_run('propagation')}, or `cdgmae propagation summarise`")
    return PropagationDisplay(read_table(path, SUMMARY_SCHEMA.names).to_pylist())


def render_display(display: PropagationDisplay, console: Console | None = None) -> None:
    """Print the table and one line per evaluation set on how it was measured."""
    console = console or open_console()
    columns = display.columns
    table = ResultTable(title="Frozen encoders, percent", title_justify="left")
    table.add_column("encoder", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    for row in wide_rows(display.summary):
        table.add_row(row["encoder"], *(_shown(row.get(name)) for name in columns))
    table.add_section()
    for paper in PAPER_TABLES["table5"].rows.values():
        values = (_shown(paper.value(name)) for name in columns)
        table.add_row(f"paper: {' '.join(paper.labels[:2])}", *values, style="dim")
    console.print(table)
    for name, conditions in display.conditions.items():
        console.print(f"{name}: {conditions}", style="dim", soft_wrap=True)


def describe_conditions(row: Mapping[str, Any]) -> str:
    """E.g. `30 sequences scored at 854x480; cropmae, input_size [480, 880], top_k 7, ...`, from a row of the summary."""
    sizes, protocol = row["scored_sizes"].split(), json.loads(row["protocol"])
    where = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"
    count = "1 sequence" if row["sequences"] == 1 else f"{row['sequences']} sequences"
    settings = [f"{key} {value}" for key, value in protocol.items() if key != "name" and value is not None]
    return f"{count} scored at {where}; {', '.join([protocol['name'], *settings])}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
