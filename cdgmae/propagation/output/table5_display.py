"""The summary in a terminal: our encoders above the paper's Table 5, and how they were measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cdgmae.paper import PAPER_TABLES
from cdgmae.propagation.benchmarks.image_files import show_size
from cdgmae.propagation.measures.encoder_summary import SUMMARY_SCHEMA
from cdgmae.propagation.measures.scores import SCORE_COLUMNS
from cdgmae.storage.tables import read_table, table_facts

SHOWN_COLUMNS = SCORE_COLUMNS[:6]
"""The columns of Table 5: J&F, J, F, mIoU, PCK@0.1, PCK@0.2."""


@dataclass(frozen=True, slots=True)
class PropagationDisplay:
    """What `cdgmae propagation show` prints.

    Attributes:
        rows: Rows of the summary.
        conditions: Clip set -> protocol, number of sequences and scored sizes, as the summary's metadata hold them.
    """

    rows: list[dict[str, Any]]
    conditions: dict[str, dict[str, Any]]


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
    return PropagationDisplay(read_table(path, SUMMARY_SCHEMA.names).to_pylist(), table_facts(path).get("conditions", {}))


def render_display(display: PropagationDisplay, console: Console | None = None) -> None:
    """Print the table and one line per clip set on how it was measured."""
    console = console or Console()
    table = Table(title="Video label propagation, percent", title_justify="left")
    table.add_column("encoder")
    for name in SHOWN_COLUMNS:
        table.add_column(name, justify="right")
    for row in display.rows:
        table.add_row(row["encoder"], *(_shown(row[name]) for name in SHOWN_COLUMNS))
    table.add_section()
    for paper in PAPER_TABLES["table5"].rows.values():
        values = (_shown(paper.printed[name].value) for name in SHOWN_COLUMNS)
        table.add_row(f"paper: {' '.join(paper.labels[:2])}", *values, style="dim")
    console.print(table)
    for clip_set, facts in display.conditions.items():
        console.print(f"[dim]{clip_set}: {describe_conditions(facts)}[/dim]", highlight=False)


def describe_conditions(facts: dict[str, Any]) -> str:
    """E.g. `30 sequences scored at 854x480; cropmae, input_size [480, 880], top_k 7, ...`."""
    sizes = [show_size((height, width)) for height, width in facts["scored_sizes"]]
    where = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"
    count = "1 sequence" if facts["sequences"] == 1 else f"{facts['sequences']} sequences"
    settings = {key: value for key, value in facts["protocol"].items() if key != "name" and value is not None}
    return f"{count} scored at {where}; {', '.join([facts['protocol']['name'], *(f'{key} {settings[key]}' for key in settings)])}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
