"""Encoders on one evaluation set: their headline scores with intervals, and every pair compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdgmae.propagation.benchmarks.benchmark import Benchmark
from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of, set_label
from cdgmae.propagation.measures.encoder_summary import read_rows
from cdgmae.propagation.measures.intervals import Interval
from cdgmae.propagation.output.encoder_comparison import MeasuredEncoder, SetComparison, compare, measure_encoder
from cdgmae.report.propagation_scores import EncoderScores, evaluation_sets
from cdgmae.storage.tables import table_metadata


@dataclass(frozen=True, slots=True)
class SetRanking:
    """One evaluation set.

    Attributes:
        name: Its name in the configuration.
        benchmark: The object of its kind.
        num_sequences: Sequences behind the scores.
        scores: Encoder -> headline measure, the highest first.
        pairs: (first, second) -> their comparison, both ways round.
        apart: Encoders that were measured under other conditions than the first one, so that they do not compare.
    """

    name: str
    benchmark: Benchmark[Any, Any]
    num_sequences: int
    scores: dict[str, Interval]
    pairs: dict[tuple[str, str], SetComparison] = field(default_factory=dict)
    apart: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Heading."""
        return set_label(self.name, self.benchmark.kind)

    def difference(self, first: str, second: str) -> Interval | None:
        """The headline measure of one less that of the other, or None where they do not compare."""
        pair = self.pairs.get((first, second))
        return None if pair is None else pair.difference[self.benchmark.headline.name]

    @property
    def ordered_pairs(self) -> list[tuple[str, str]]:
        """Each pair once, the higher score first."""
        return [pair for pair in itertools.combinations(self.scores, 2) if pair in self.pairs]

    @property
    def noise(self) -> list[tuple[str, str]]:
        """Pairs whose difference may be noise: its interval holds zero, or there are too few sequences for one."""
        return [
            pair
            for pair in self.ordered_pairs
            if (difference := self.difference(*pair)) is not None and not difference.excludes_zero
        ]


def read_costs_of_encoders(folder: Path, encoders: Sequence[EncoderScores]) -> dict[str, dict[str, Any]]:
    """Encoder -> patch_size, parameters and gflops (`cdgmae.models.encoders.encoder_cost`), as far as a table of it says."""
    costs = {}
    for encoder in encoders:
        tables = [path for name in encoder.sets if (path := folder / encoder.name / f"{name}.parquet").is_file()]
        known = [cost for path in tables if (cost := table_metadata(path).get("encoder_cost"))]
        if known:
            costs[encoder.name] = known[0]
    return costs


def rank_encoders(folder: Path, encoders: Sequence[EncoderScores]) -> list[SetRanking]:
    """Every set that an encoder has a table of.

    Args:
        folder: Folder with ENCODER/SET.parquet.
        encoders: In the order of the page.
    """
    rankings = []
    for name, kind in evaluation_sets(encoders).items():
        tables = {encoder.name: path for encoder in encoders if (path := folder / encoder.name / f"{name}.parquet").is_file()}
        measured = {encoder: measure_encoder([read_rows(path)]) for encoder, path in tables.items()}
        if measured:
            rankings.append(_rank(name, kind, measured))
    return rankings


def _rank(name: str, kind: str, measured: dict[str, MeasuredEncoder]) -> SetRanking:
    headline = benchmark_of(kind).headline.name
    intervals = {encoder: encoder_scores.scores.intervals()[headline] for encoder, encoder_scores in measured.items()}
    order = sorted(
        intervals, key=lambda encoder: -intervals[encoder].value if intervals[encoder].value == intervals[encoder].value else 1
    )
    ruling = next(iter(measured.values()))
    apart = [encoder for encoder in order if measured[encoder].conditions != ruling.conditions]
    alike = [encoder for encoder in order if encoder not in apart]
    pairs = {
        (first, second): compare(name, measured[first], measured[second]) for first, second in itertools.permutations(alike, 2)
    }
    scores = {encoder: intervals[encoder] for encoder in order}
    return SetRanking(name, benchmark_of(kind), len(ruling.sequences), scores, pairs, apart)
