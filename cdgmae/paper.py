"""The paper's tables and figures as printed (`paper.yaml`): rows, columns, numbers, and which measure of which stage stands beside them.

Import-light: the configuration asks for row names whenever the workflow is parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Printed:
    """A number of the paper and, where it prints one, the standard deviation over its seeds."""

    value: float
    deviation: float | None = None


@dataclass(frozen=True, slots=True)
class PaperColumn:
    """One measure.

    Attributes:
        title: Heading.
        stage: The stage that measures it here: consistency, propagation, or pretrain for operations counted by formula.
        kind: Kind of the evaluation set (propagation).
    """

    title: str
    stage: str
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row.

    Attributes:
        name: Its name in the configuration.
        labels: What stands in the heading columns.
        printed: Column -> number; columns without a printed number are left out.
        kind: Kind of the view source (section `views`) that makes such pairs, in tables of sources.
        run: Settings of the pre-training run whose operations are counted.
    """

    name: str
    labels: tuple[str, ...]
    printed: Mapping[str, Printed]
    kind: str | None = None
    run: Mapping[str, Any] = field(default_factory=dict)

    def value(self, column: str) -> float | None:
        """The printed number of a column; None where there is none."""
        return self.printed[column].value if column in self.printed else None


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One table or figure.

    Attributes:
        name: Name of the target, e.g. `table4`.
        title: Number and subject.
        headings: Titles of the heading columns, one per label of a row.
        columns: Measure -> what it is.
        digits: Decimals in the paper.
        rows: Name -> row, in the paper's order.
        note: What a reader must know about the paper's numbers.
    """

    name: str
    title: str
    headings: tuple[str, ...]
    columns: Mapping[str, PaperColumn]
    digits: int
    rows: Mapping[str, PaperRow]
    note: str

    @property
    def is_figure(self) -> bool:
        """Whether the paper shows it as a plot."""
        return self.name.startswith("figure")

    @property
    def is_of_sources(self) -> bool:
        """Whether its rows are view sources; otherwise they are encoders."""
        return all(column.stage == "consistency" for column in self.columns.values())


def _read_row(name: str, columns: list[str], entry: dict[str, Any]) -> PaperRow:
    values, deviations = entry.get("values", []), entry.get("deviations", [])
    printed = {
        column: Printed(value, deviation)
        for column, (value, deviation) in zip(columns, zip_longest(values, deviations), strict=bool(values))
    }
    return PaperRow(name, tuple(entry["labels"]), printed, entry.get("kind"), entry.get("run", {}))


def _read_tables() -> dict[str, PaperTable]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # written in C where PyYAML has it, a quarter of the time
    content = yaml.load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"), Loader=loader)
    columns = {name: PaperColumn(**entry) for name, entry in content["columns"].items()}
    return {
        name: PaperTable(
            name, entry["title"], tuple(entry["headings"]), {column: columns[column] for column in entry["columns"]},
            entry.get("digits", 1), {row: _read_row(row, entry["columns"], values) for row, values in entry["rows"].items()},
            entry.get("note", ""),
        )
        for name, entry in content["tables"].items()
    }  # fmt: skip


PAPER_TABLES: dict[str, PaperTable] = _read_tables()
"""Target -> the paper's table or figure, in the paper's order."""
