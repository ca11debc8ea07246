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
from cdgmae.propagation.measures.scores import table_scores
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.tables import read_table

NOT_CONFIGURED = "not configured"

Finding = tuple[dict[str, float], list[str]]
"""Column -> value of one source or encoder, and the files that were looked for and are not there."""


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


def fill_table(table: PaperTable, rows: Mapping[str, Sequence[str]], results: Path) -> list[FilledRow]:
    """Put our results beside a paper table.

    Args:
        table: The paper's table.
        rows: Row -> view sources, or encoders (one per seed), whose results in `results` fill it.
        results: Folder with the results of the stages.

    Returns:
        All rows of the paper, in its order.

    Raises:
        ValueError: if a file is there but cannot be read.
    """
    read = _read_source if table.is_of_sources else _read_encoder
    return [_fill(row, list(rows.get(row.name, [])), table, lambda name: read(results, name)) for row in table.rows.values()]


def _fill(row: PaperRow, fillers: list[str], table: PaperTable, read: Callable[[str], Finding]) -> FilledRow:
    findings = [read(name) for name in fillers]
    counted: list[Finding] = (
        [({"gflops": count_flops(PretrainRunSettings.from_plain(row.run)).paper / 1e9}, [])] if row.run else []
    )
    cells = {
        name: _cell(row, name, column.kind, counted if column.stage == "pretrain" else findings)
        for name, column in table.columns.items()
    }
    return FilledRow(row, fillers, cells)


def _cell(row: PaperRow, column: str, clip_set: str | None, findings: Sequence[Finding]) -> Cell:
    printed = row.printed.get(column)
    values = [found[column] for found, _ in findings if column in found and not math.isnan(found[column])]
    lacking = [file for _, files in findings for file in files if clip_set is None or Path(file).stem == clip_set]
    return Cell(
        paper=None if printed is None else printed.value,
        paper_deviation=None if printed is None else printed.deviation,
        ours=statistics.fmean(values) if values else None,
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        seeds=len(values),
        missing=_describe_missing(lacking, len(findings), len(values)),
    )


def _describe_missing(lacking: Sequence[str], expected: int, found: int) -> str:
    if expected == 0:
        return NOT_CONFIGURED
    if lacking:
        return f"no {', no '.join(lacking)}"
    return "" if found == expected else "nothing could be measured"


def _read_source(results: Path, source: str) -> Finding:
    """Mean GS, LS and NPS over all scored pairs of a source."""
    folder = results / "consistency" / source
    tables = sorted(folder.glob("*.parquet"))
    means = {
        key.removesuffix("_mean"): value
        for row in describe_sources(tables)
        for key, value in row.items()
        if key.endswith("_mean")
    }
    return means, [] if means else [f"{names.consistency_dir(source)}/*.parquet" if not tables else f"scored pair of {source}"]


def _read_encoder(results: Path, encoder: str) -> Finding:
    """Scores of an encoder on the clip sets whose tables are there."""
    scores: dict[str, float] = {}
    missing = []
    for clip_set in names.CLIP_SETS:
        path = results / "propagation" / encoder / f"{clip_set}.parquet"
        if path.is_file():
            scores |= table_scores(read_table(path).to_pylist())
        else:
            missing.append(names.propagation_table(encoder, clip_set))
    return scores, missing
