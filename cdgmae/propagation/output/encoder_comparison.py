"""Two encoders side by side: wins per sequence, and whether a difference is more than the choice of sequences."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of
from cdgmae.propagation.measures.encoder_summary import conditions_of, read_rows
from cdgmae.propagation.measures.intervals import Interval, ResampledScores, Tables, resample, sequence_scores
from cdgmae.terminal import ResultTable, key_column, open_console
from cdgmae.workflow.last_run import how_to_run

OF_SEED = re.compile(r"_seed\d+")
"""What the name of another seed of an encoder ends in (`NAME_seedN`)."""


@dataclass(frozen=True, slots=True)
class SetComparison:
    """Two encoders on one evaluation set, in the measures' own unit.

    Attributes:
        set_name: Its name.
        headline: The measure by which sequences are compared.
        seeds: Tables behind the first and the second encoder, one per seed.
        first: Measure -> the first encoder.
        second: Measure -> the second encoder.
        difference: Measure -> first less second, on the same drawn sequences.
        sequences: Sequence -> headline measure of the first and of the second encoder.
    """

    set_name: str
    headline: str
    seeds: tuple[int, int]
    first: dict[str, Interval]
    second: dict[str, Interval]
    difference: dict[str, Interval]
    sequences: dict[str, tuple[float, float]]

    @property
    def wins(self) -> Counter[str]:
        """Sequences that `first` or `second` wins, or that are a `tie`; those without a score are left out."""
        pairs = [pair for pair in self.sequences.values() if not any(map(math.isnan, pair))]
        return Counter("tie" if a == b else "first" if a > b else "second" for a, b in pairs)

    def as_plain(self) -> dict[str, Any]:
        """Everything as plain values, for JSON; null where nothing could be counted."""
        intervals = {"first": self.first, "second": self.second, "difference": self.difference}
        return {
            "set": self.set_name, "headline": self.headline, "seeds": list(self.seeds),
            "wins": {name: self.wins[name] for name in ("first", "second", "tie")},
            "sequences": {name: [_number(value) for value in pair] for name, pair in self.sequences.items()},
        } | {
            name: {measure: [_number(value) for value in (interval.value, interval.low, interval.high)] for measure, interval in each.items()}
            for name, each in intervals.items()
        }  # fmt: skip


def encoder_tables(results: Path, encoder: str) -> dict[str, Tables]:
    """Evaluation set -> the tables of an encoder, those of its other seeds (`NAME_seedN`) after its own.

    Raises:
        ValueError: if there is none.
    """
    folders = [results / encoder] if encoder and (results / encoder).is_dir() else []
    if folders:
        folders += sorted(
            path
            for path in results.glob(f"{encoder}_seed*")
            if OF_SEED.fullmatch(path.name.removeprefix(encoder)) and path.is_dir()
        )
    tables: dict[str, list[list[dict[str, Any]]]] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.parquet"))):
        tables.setdefault(path.stem, []).append(read_rows(path))
    if not tables:
        there = sorted({path.parent.name for path in results.glob("*/*.parquet")})
        raise ValueError(
            f"{results} holds no tables of encoder {encoder!r}; there are: {', '.join(there) or 'none'}; {how_to_run('propagation')}, or "
            "give --results"
        )
    return dict(tables)


def compare_encoders(results: Path, first: str, second: str) -> list[SetComparison]:
    """Compare two encoders on every evaluation set that both were measured on.

    Args:
        results: Folder with one folder of tables per encoder, e.g. results/propagation.
        first: An encoder's name.
        second: Another one's.

    Raises:
        ValueError: if an encoder has no tables, no set is common to both, or a set was measured under different conditions.
    """
    ours, others = encoder_tables(results, first), encoder_tables(results, second)
    common = [name for name in ours if name in others]
    if not common:
        raise ValueError(
            f"{first!r} ({', '.join(ours)}) and {second!r} ({', '.join(others)}) were measured on no common set; name a set for both"
        )
    return [compare(name, measure_encoder(ours[name]), measure_encoder(others[name])) for name in common]


@dataclass(frozen=True, slots=True)
class MeasuredEncoder:
    """One encoder on one evaluation set.

    Attributes:
        conditions: Under which its tables were measured, one per seed.
        headline: The measure by which sequences are compared.
        scores: All measures, and of drawn sequences.
        sequences: Sequence -> headline measure, the mean over seeds.
    """

    conditions: list[dict[str, Any]]
    headline: str
    scores: ResampledScores
    sequences: dict[str, float]


def measure_encoder(tables: Tables) -> MeasuredEncoder:
    """Score and resample one encoder on one evaluation set.

    Args:
        tables: One per seed.

    Raises:
        ValueError: if the tables do not hold the same sequences.
    """
    headline = benchmark_of(tables[0][0]["kind"]).headline.name
    return MeasuredEncoder(
        [conditions_of(table) for table in tables], headline, resample(tables), sequence_scores(tables, headline)
    )


def compare(set_name: str, first: MeasuredEncoder, second: MeasuredEncoder) -> SetComparison:
    """Compare two encoders on one evaluation set.

    Raises:
        ValueError: if they were measured under different conditions.
    """
    conditions = [*first.conditions, *second.conditions]
    different = {name for other in conditions[1:] for name in other if other[name] != conditions[0][name]}
    if different:
        raise ValueError(
            f"{set_name}: the tables differ in {', '.join(sorted(different))}, so their scores do not compare; evaluate again alike"
        )
    return SetComparison(
        set_name, first.headline, (len(first.conditions), len(second.conditions)), first.scores.intervals(), second.scores.intervals(),
        first.scores.differences(second.scores), {name: (score, second.sequences[name]) for name, score in first.sequences.items()},
    )  # fmt: skip


def render_comparison(comparison: SetComparison, first: str, second: str, console: Console | None = None) -> None:
    """Print measures with intervals, wins, and the sequences from the first encoder's best to its worst."""
    console = console or open_console()
    measures = ResultTable(title=f"{comparison.set_name}: mean over seeds [95 % interval over sequences]", title_justify="left")
    for heading in ("measure", first, second, "difference", ""):
        measures.add_column(heading, justify="left" if heading in ("measure", "") else "right")
    for measure, difference in comparison.difference.items():
        values = (comparison.first[measure], comparison.second[measure], difference)
        verdict = "beyond the interval" if difference.excludes_zero else "may be noise"
        measures.add_row(measure, *map(_shown, values), verdict)
    console.print(measures)
    wins = comparison.wins
    console.print(f"{comparison.headline}: {first} wins {wins['first']}, {second} wins {wins['second']}, ties {wins['tie']}")
    sequences = ResultTable(key_column("sequence"), first, second, "difference")
    for name, (ours, others) in sorted(comparison.sequences.items(), key=lambda item: item[1][1] - item[1][0]):
        sequences.add_row(name, f"{ours:.1f}", f"{others:.1f}", f"{ours - others:+.1f}")
    console.print(sequences)


def _shown(interval: Interval) -> str:
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
