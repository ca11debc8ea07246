"""A paper table with ours beside it, written as CSV (one line per cell), Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdgmae.paper import PAPER_TABLES, PaperTable
from cdgmae.report.rendering import template_environment
from cdgmae.report.svg_figures import draw_scores
from cdgmae.report.table_cells import NOT_CONFIGURED, Cell, FilledRow, fill_table
from cdgmae.settings.reading.messages import did_you_mean
from cdgmae.settings.report import TableSettings, table_problems
from cdgmae.storage.files.atomic import write_text
from cdgmae.storage.tables import write_csv

CELLS_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("table", "row", "label", "filled_by", "column")),
        *(pa.field(name, pa.float64()) for name in ("paper", "paper_deviation", "ours", "deviation")),
        pa.field("seeds", pa.int64(), nullable=False),
        pa.field("difference", pa.float64()),
        pa.field("missing", pa.string(), nullable=False),
    ]
)
"""Columns of the CSV: one line per cell; `filled_by` names our sources or encoders, `missing` says what a cell lacks."""

NOT_PRINTED = "not printed"


def write_paper_table(name: str, settings: TableSettings, results: Path, output: Path) -> dict[str, Any]:
    """Write `output`/NAME.csv, .md and .html; the HTML last.

    Args:
        name: Name of the table, e.g. `table4`.
        settings: What fills its rows.
        results: Folder with the results of the stages.
        output: Folder for the three files.

    Returns:
        Paths, the number of cells, and how many of them have a value of ours.

    Raises:
        ValueError: if the paper has no such table or row, or a result cannot be read.
    """
    check_table_name(name)
    if problems := list(table_problems({name: settings.rows})):
        raise ValueError("--settings: " + "; ".join(problems))
    table = PAPER_TABLES[name]
    rows = fill_table(table, settings, results)
    files = {kind: output / f"{name}.{kind}" for kind in ("csv", "md", "html")}
    write_csv(files["csv"], pa.Table.from_pylist(_lines(table, rows), schema=CELLS_SCHEMA))
    write_text(files["md"], _markdown(table, rows))
    write_text(files["html"], _page(table, rows))
    cells = [cell for row in rows for cell in row.cells.values()]
    filled = sum(cell.ours is not None for cell in cells)
    return {"cells": len(cells), "filled": filled, **{kind: str(path) for kind, path in files.items()}}


def check_table_name(name: str) -> None:
    """Refuse a name that is no table or figure of the paper.

    Raises:
        ValueError: with the names that are.
    """
    if name not in PAPER_TABLES:
        raise ValueError(
            f"{name!r} is no table of the paper; allowed: {', '.join(PAPER_TABLES)}{did_you_mean(name, PAPER_TABLES)}"
        )


def show_number(value: float | None, deviation: float | None, digits: int) -> str:
    """A number with its deviation, e.g. `62.6 ± 0.1`; empty for None."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def show_difference(cell: Cell, digits: int) -> str:
    """Ours minus the paper's with its sign, `+0.0` if they agree; empty if one of the two is missing."""
    return "" if cell.difference is None else f"{round(cell.difference, digits) + 0.0:+.{digits}f}".replace("-", "−")


def remarks(table: PaperTable, rows: Sequence[FilledRow]) -> list[str]:
    """What a reader must know: about the paper's numbers, about ours, and how to fill what is empty."""
    said = [table.note] if table.note else []
    cells = [cell for row in rows for cell in row.cells.values()]
    said.append(
        "Ours and the paper's compare on the full data sets with the paper's settings. Ours are means over seeds, ± the sample standard "
        "deviation where there are two or more."
    )
    if any(cell.missing == NOT_CONFIGURED for cell in cells):
        said.append(
            f"Rows that are {NOT_CONFIGURED}: name what fills them under report.tables.{table.name}, as workflow/experiments/{table.name}.yaml does."
        )
    return said


def _lines(table: PaperTable, rows: Sequence[FilledRow]) -> list[dict[str, Any]]:
    return [
        {
            "table": table.name, "row": row.paper.name, "label": ", ".join(row.paper.labels), "filled_by": " ".join(row.fillers),
            "column": column, "paper": cell.paper, "paper_deviation": cell.paper_deviation, "ours": cell.ours,
            "deviation": cell.deviation, "seeds": cell.seeds, "difference": cell.difference, "missing": cell.missing,
        }
        for row in rows
        for column, cell in row.cells.items()
    ]  # fmt: skip


def _markdown(table: PaperTable, rows: Sequence[FilledRow]) -> str:
    """A table whose cells read `paper / ours (difference)`."""
    head = [*table.headings, *(column.title for column in table.columns.values()), "Filled by"]
    body = [
        [*row.paper.labels, *(_cell_text(cell, table.digits) for cell in row.cells.values()), ", ".join(row.fillers)]
        for row in rows
    ]
    lines = [
        f"# {table.title}", "", "Cells: paper / ours (difference).", "",
        *(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)), "",
        *(f"- {remark}" for remark in remarks(table, rows)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _cell_text(cell: Cell, digits: int) -> str:
    paper = show_number(cell.paper, cell.paper_deviation, digits) or NOT_PRINTED
    ours = show_number(cell.ours, cell.deviation, digits)
    difference = f" ({show_difference(cell, digits)})" if cell.difference is not None else ""
    return f"{paper} / " + "; ".join(part for part in (ours + difference, cell.missing) if part)


def _page(table: PaperTable, rows: Sequence[FilledRow]) -> str:
    figure = draw_scores(_bars(rows), [column.title for column in table.columns.values()]) if table.is_figure else None
    return template_environment().get_template("table.html.j2").render(
        table=table, rows=rows, figure=figure, remarks=remarks(table, rows), show_number=show_number,
        show_difference=show_difference, not_printed=NOT_PRINTED, not_configured=NOT_CONFIGURED, lacking=_lacking(table, rows),
    )  # fmt: skip


def _lacking(table: PaperTable, rows: Sequence[FilledRow]) -> list[str]:
    """One sentence per cell of a configured row that lacks results."""
    return [
        f"{', '.join(row.paper.labels)}; {table.columns[column].title}: {cell.missing}"
        for row in rows if row.fillers
        for column, cell in row.cells.items() if cell.missing
    ]  # fmt: skip


def _bars(rows: Sequence[FilledRow]) -> Mapping[str, list[tuple[float | None, float | None]]]:
    """Row label -> (paper, ours) of every column, for the plot."""
    return {", ".join(row.paper.labels): [(cell.paper, cell.ours) for cell in row.cells.values()] for row in rows}
