"""How far scores would move with other sequences of the same sort: percentile bootstrap over the sequences of an evaluation set.

Sequences are drawn with replacement, with all their objects, and the set's own formula is applied to what was drawn, so pooled measures
(VIP's IoU, JHMDB's PCK) are resampled as they are computed. Seeds of a run are averaged after scoring: the interval is about sequences,
not about training again.

Shapes: N sequences, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdgmae.propagation.benchmarks.benchmark import Row
from cdgmae.propagation.benchmarks.benchmark_kinds import table_scores
from cdgmae.runtime.seeds import numpy_generator

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95

Tables = Sequence[Sequence[Row]]
"""Tables of one encoder on one evaluation set, one per seed, with the same sequences."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % bootstrap interval; the bounds are not numbers with fewer than two sequences."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero: a difference that other sequences would hardly undo."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class ResampledScores:
    """Every measure of one encoder on one evaluation set, the mean over its seeds, and of the same sequences drawn again and again.

    Encoders that were measured on the same sequences have the same draws, so their differences are paired.

    Attributes:
        names: The sequences.
        values: Measure -> value.
        drawn: Measure -> values (R,) of the resamples; none with fewer than two sequences.
    """

    names: list[str]
    values: dict[str, float]
    drawn: dict[str, NDArray[np.float64]]

    def intervals(self) -> dict[str, Interval]:
        """Of every measure."""
        return {measure: _interval(value, self.drawn[measure]) for measure, value in self.values.items()}

    def differences(self, other: ResampledScores) -> dict[str, Interval]:
        """Of every measure less that of the other encoder (paired).

        Raises:
            ValueError: if the encoders were not measured on the same sequences.
        """
        _refuse_different(self.names, other.names)
        return {
            measure: _interval(value - other.values[measure], self.drawn[measure] - other.drawn[measure])
            for measure, value in self.values.items()
        }


def resample(tables: Tables) -> ResampledScores:
    """Score one encoder on its sequences and on `NUM_RESAMPLES` draws of as many.

    Args:
        tables: One table per seed.

    Raises:
        ValueError: if the tables do not hold the same sequences.
    """
    by_sequence = [_by_sequence(table) for table in tables]
    names = _sequence_names(by_sequence)
    values, count = _mean_scores(tables), NUM_RESAMPLES if len(names) > 1 else 0
    drawn_RN = numpy_generator(0, "propagation/bootstrap", "sequences").integers(0, len(names), (count, len(names)))
    scores = [
        _mean_scores([[row for index in drawn_N for row in rows[names[index]]] for rows in by_sequence]) for drawn_N in drawn_RN
    ]
    return ResampledScores(names, values, {measure: np.array([each[measure] for each in scores]) for measure in values})


def sequence_scores(tables: Tables, measure: str) -> dict[str, float]:
    """Sequence -> a measure of it alone, the mean over seeds; not a number where nothing could be counted."""
    by_sequence = [_by_sequence(table) for table in tables]
    return {name: _mean_scores([rows[name] for rows in by_sequence])[measure] for name in _sequence_names(by_sequence)}


def _interval(value: float, drawn_R: NDArray[np.float64]) -> Interval:
    counted, tail = drawn_R[~np.isnan(drawn_R)], (1 - CONFIDENCE) / 2
    low, high = np.quantile(counted, [tail, 1 - tail]).tolist() if counted.size else (float("nan"), float("nan"))
    return Interval(value, low, high)


def _mean_scores(tables: Tables) -> dict[str, float]:
    scores = [table_scores(table) for table in tables]
    return {measure: sum(each[measure] for each in scores) / len(scores) for measure in scores[0]}


def _by_sequence(table: Sequence[Row]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in table:
        rows.setdefault(row["sequence"], []).append(row)
    return rows


def _sequence_names(by_sequence: Sequence[dict[str, list[Row]]]) -> list[str]:
    """The sequences that all tables hold.

    Raises:
        ValueError: if a table holds others.
    """
    names = sorted(by_sequence[0])
    for other in by_sequence[1:]:
        _refuse_different(names, other)
    return names


def _refuse_different(names: Iterable[str], others: Iterable[str]) -> None:
    if different := sorted(set(names) ^ set(others)):
        raise ValueError(
            f"the tables hold different sequences ({', '.join(different[:5])}{' ...' if len(different) > 5 else ''} in some only); "
            "evaluate all encoders on the same set"
        )
