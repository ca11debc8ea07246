"""The study's result as a page: every encoder with intervals, differences to a baseline, and the consistency of every source."""

from __future__ import annotations

import math
from pathlib import Path

from cdgmae.config import Config
from cdgmae.paper import PAPER_TABLES
from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of
from cdgmae.propagation.measures.intervals import Interval, resample
from cdgmae.propagation.output.encoder_comparison import OF_SEED, encoder_tables
from cdgmae.storage.tables import read_table

BASELINE = "crops"
METRICS = ("gs", "ls", "nps")


def write_results(config: Config, results: Path, output: Path, notes: list[str]) -> None:
    """Write the page from whatever is finished.

    Args:
        config: The study's configuration.
        results: Folder with `propagation/` and `consistency/summary.parquet`.
        output: Markdown file.
        notes: Lines on how it was made.
    """
    lines = [
        "# Small study", "", *(f"* {note}" for note in notes), "",
        "Percent. Intervals are 95 % bootstrap intervals over the sequences of a set, of the mean over seeds; they do not speak of training again "
        f"with other seeds, whose scores stand beside them. *Less {BASELINE}* is paired: the same drawn sequences for both.", "",
        *_encoder_rows(config, results / "propagation"), "", *_source_rows(results / "consistency/summary.parquet"),
    ]  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _encoder_rows(config: Config, results: Path) -> list[str]:
    encoders = config.propagation.encoders
    names = [name for name in encoders if not OF_SEED.search(name) or OF_SEED.sub("", name) not in encoders]
    tables = {name: encoder_tables(results, name) for name in names if any((results / name).glob("*.parquet"))}
    rows = [
        f"| encoder | set | measure | mean | 95 % interval | seeds | of each seed | less {BASELINE} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for set_name in config.propagation.datasets:
        for name, sets in tables.items():
            if set_name not in sets:
                continue
            ours, baseline = sets[set_name], tables.get(BASELINE, {}).get(set_name)
            resampled, single = resample(ours), [resample([table]).values for table in ours]
            scores = resampled.intervals()
            differences = resampled.differences(resample(baseline)) if baseline and name != BASELINE else {}
            for measure in benchmark_of(config.propagation.datasets[set_name].kind).measures:
                if not measure.shown:
                    continue
                found, less = scores[measure.name], differences.get(measure.name)
                seeds = ", ".join(f"{each[measure.name]:.2f}" for each in single)
                rows.append(
                    f"| {name} | {set_name} | {measure.name} | {found.value:.2f} | {_bounds(found)} | {len(ours)} | {seeds} "
                    f"| {'' if less is None else f'{less.value:+.2f} {_bounds(less)}'} |"
                )
    return rows


def _source_rows(summary: Path) -> list[str]:
    """Means of every source with their intervals beside the paper's Table 1, and both orders."""
    if not summary.is_file():
        return ["No source is scored yet."]
    sources = [row for row in read_table(summary).to_pylist() if row["nps_mean"] is not None]
    paper = {row.kind: row for row in PAPER_TABLES["table1"].rows.values()}
    rows = ["| source | pairs | GS | LS | NPS | paper's GS, LS, NPS |", "|---|---|---|---|---|---|"]
    for row in sources:
        cells = [
            f"{row[f'{name}_mean']:.3f} {_bounds(Interval(0, row[f'{name}_low'], row[f'{name}_high']), 3)}" for name in METRICS
        ]
        printed = ", ".join(f"{paper[row['kind']].value(name):.3f}" for name in METRICS) if row["kind"] in paper else ""
        rows.append(f"| {row['source']} | {row['pairs']} | {' | '.join(cells)} | {printed} |")
    compared = sorted((row for row in sources if row["kind"] in paper), key=lambda row: -row["nps_mean"])
    order = " > ".join(row["kind"] for row in compared)
    printed_order = " > ".join(str(kind) for kind in sorted(paper, key=lambda kind: -(paper[kind].value("nps") or 0)))
    return [
        *rows,
        "",
        f"Order in NPS: {order}; the paper's: {printed_order}. The scale is that of the scoring encoder, so only the order compares.",
    ]


def _bounds(interval: Interval, digits: int = 2) -> str:
    low, high = interval.low, interval.high
    return "" if low is None or math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"
