"""Our numbers beside the paper's: one cell per row and column of a paper table, with the difference or what is missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgmae import names
from cdgmae.consistency.consistency_summary import describe_sources
from cdgmae.paper import PaperRow, PaperTable
from cdgmae.pretrain.flops import count_flops
from cdgmae.propagation.benchmarks.benchmark_kinds import table_scores
from cdgmae.report.stages import score_tables
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.report import TableSettings
from cdgmae.storage.tables import read_table

NOT_CONFIGURED = "not configured"

Finding = tuple[dict[str, float], dict[str, str]]
"""Column -> value of one source or encoder, and what was looked for and is not there, by kind of evaluation set; a source has but one."""

SCORED_PAIRS = "consistency"


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the paper and ours.

    Attributes:
        paper: The printed number; None where the paper prints none.
        paper_deviation: Its standard deviation, where printed.
        ours: Mean over our seeds, None without data.
        deviation: Sample standard deviation over our seeds, None for fewer than two.
        seeds: Number of our values.
        missing: What stands between us and the full number of values; empty if nothing does.
    """

    paper: float | None
    paper_deviation: float | None
    ours: float | None
    deviation: float | None
    seeds: int
    missing: str

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.paper is None else self.ours - self.paper


@dataclass(frozen=True, slots=True)
class FilledRow:
    """A row of the paper, the names of what fills it (empty if nothing is configured), and its cells by column."""

    paper: PaperRow
    fillers: list[str]
    cells: dict[str, Cell]

    @property
    def compares(self) -> bool:
        """Whether any cell has both numbers."""
        return any(cell.difference is not None for cell in self.cells.values())


def fill_table(table: PaperTable, settings: TableSettings, results: Path) -> list[FilledRow]:
    """Put our results beside a paper table.

    Args:
        table: The paper's table.
        settings: View sources, or encoders (one per seed), whose results in `results` fill the rows.
        results: Folder with the results of the stages.

    Returns:
        All rows of the paper, in its order.

    Raises:
        ValueError: if a file is there but cannot be read.
    """

    def read(name: str) -> Finding:
        if table.is_of_sources:
            return _read_source(results, name, settings.num_shards.get(name, 0))
        return _read_encoder(results, name, {kind: settings.sets.get(kind, kind) for kind in kinds})

    kinds = dict.fromkeys(column.kind for column in table.columns.values() if column.kind is not None)
    return [_fill(row, settings.rows.get(row.name, []), table, read) for row in table.rows.values()]


def _fill(row: PaperRow, fillers: list[str], table: PaperTable, read: Callable[[str], Finding]) -> FilledRow:
    findings = [read(name) for name in fillers]
    counted: list[Finding] = (
        [({"gflops": count_flops(PretrainRunSettings.from_plain(row.run)).paper / 1e9}, {})] if row.run else []
    )
    cells = {
        name: _cell(row, name, column.kind or SCORED_PAIRS, counted if column.stage == "pretrain" else findings)
        for name, column in table.columns.items()
    }
    return FilledRow(row, fillers, cells)


def _cell(row: PaperRow, column: str, kind: str, findings: Sequence[Finding]) -> Cell:
    printed = row.printed.get(column)
    values = [measured[column] for measured, _ in findings if column in measured and not math.isnan(measured[column])]
    lacking = [missing[kind] for _, missing in findings if kind in missing]
    return Cell(
        paper=None if printed is None else printed.value,
        paper_deviation=None if printed is None else printed.deviation,
        ours=statistics.fmean(values) if values else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        seeds=len(values),
        missing=_describe_missing(lacking, len(findings), len(values)),
    )


def _describe_missing(lacking: Sequence[str], expected: int, present: int) -> str:
    if expected == 0:
        return NOT_CONFIGURED
    if lacking:
        return f"no {', no '.join(lacking)}"
    return "" if present == expected else "nothing could be measured"


def _read_source(results: Path, source: str, num_shards: int) -> Finding:
    """Mean GS, LS and NPS over all scored pairs of a source."""
    tables = score_tables(results, source, num_shards)
    means = {
        key.removesuffix("_mean"): value
        for row in (describe_sources(tables) if tables else [])
        for key, value in row.items()
        if key.endswith("_mean")
    }
    lack = f"{names.consistency_dir(source)}/*.parquet" if not tables else f"scored pair of {source}"
    return means, {} if means else {SCORED_PAIRS: lack}


def _read_encoder(results: Path, encoder: str, sets: Mapping[str, str]) -> Finding:
    """Scores of an encoder on the evaluation sets (kind -> set) whose tables are there."""
    scores: dict[str, float] = {}
    missing = {}
    for kind, name in sets.items():
        path = results / "propagation" / encoder / f"{name}.parquet"
        if path.is_file():
            scores |= table_scores(read_table(path).to_pylist())
        else:
            missing[kind] = names.propagation_table(encoder, name)
    return scores, missing
