"""The summary in a terminal: our encoders above the paper's Table 5, and how they were measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cdgmae.propagation.paper import TABLE_5
from cdgmae.propagation.scores import SCORE_COLUMNS
from cdgmae.propagation.summary import SUMMARY_SCHEMA
from cdgmae.storage.tables import read_table, table_facts

SHOWN_COLUMNS = SCORE_COLUMNS[:6]
"""The columns of Table 5: J&F, J, F, mIoU, PCK@0.1, PCK@0.2."""


@dataclass(frozen=True, slots=True)
class PropagationDisplay:
    """What `cdgmae propagation show` prints.

    Attributes:
        rows: Rows of the summary.
        protocols: Clip set -> its protocol, as the summary's metadata hold it.
    """

    rows: list[dict[str, Any]]
    protocols: dict[str, dict[str, Any]]


def read_display(results: Path) -> PropagationDisplay:
    """Read a summary.

    Args:
        results: Folder with summary.parquet, or that file.

    Raises:
        ValueError: if there is no summary or it cannot be read.
    """
    path = results if results.suffix == ".parquet" else results / "summary.parquet"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run `snakemake propagation` or `cdgmae propagation summarise` first")
    return PropagationDisplay(read_table(path, SUMMARY_SCHEMA.names).to_pylist(), table_facts(path).get("protocols", {}))


def render_display(display: PropagationDisplay, console: Console | None = None) -> None:
    """Print the table and one line per protocol."""
    console = console or Console()
    table = Table(title="Video label propagation, percent", title_justify="left")
    table.add_column("encoder")
    for name in SHOWN_COLUMNS:
        table.add_column(name, justify="right")
    for row in display.rows:
        table.add_row(row["encoder"], *(_shown(row[name]) for name in SHOWN_COLUMNS))
    table.add_section()
    for paper in TABLE_5:
        name = f"paper: {paper.method}, {paper.architecture}, {paper.dataset}, {paper.epochs} epochs"
        table.add_row(name, *(_shown(paper.scores[column]) for column in SHOWN_COLUMNS), style="dim")
    console.print(table)
    for clip_set, protocol in display.protocols.items():
        facts = ", ".join(f"{key} {value}" for key, value in protocol.items())
        console.print(f"[dim]{clip_set}: {facts}[/dim]", highlight=False)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
