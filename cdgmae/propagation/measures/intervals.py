"""How far scores would move with other sequences of the same sort: percentile bootstrap over the sequences of an evaluation set.

Sequences are drawn with replacement, with all their objects, and the set's own formula is applied to what was drawn, so pooled measures
(VIP's IoU, JHMDB's PCK) are resampled as they are computed. Seeds of a run are averaged after scoring: the interval is about sequences,
not about training again.

Shapes: N sequences, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

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


def score_intervals(tables: Tables) -> dict[str, Interval]:
    """Every measure of one encoder, the mean over its seeds.

    Args:
        tables: One table per seed.

    Raises:
        ValueError: if the tables do not hold the same sequences.
    """
    return _intervals(tables, _mean_scores)


def difference_intervals(first: Tables, second: Tables) -> dict[str, Interval]:
    """Every measure of the first encoder less that of the second, on the same drawn sequences (paired).

    Raises:
        ValueError: if the tables do not hold the same sequences.
    """
    split = len(first)

    def difference(tables: Tables) -> dict[str, float]:
        ours, others = _mean_scores(tables[:split]), _mean_scores(tables[split:])
        return {measure: ours[measure] - others[measure] for measure in ours}

    return _intervals([*first, *second], difference)


def sequence_scores(tables: Tables, measure: str) -> dict[str, float]:
    """Sequence -> a measure of it alone, the mean over seeds; not a number where nothing could be counted."""
    by_sequence = [_by_sequence(table) for table in tables]
    return {name: _mean_scores([rows[name] for rows in by_sequence])[measure] for name in _sequence_names(by_sequence)}


def _intervals(tables: Tables, score: Callable[[Tables], dict[str, float]]) -> dict[str, Interval]:
    values = score(tables)
    by_sequence = [_by_sequence(table) for table in tables]
    names = _sequence_names(by_sequence)
    if len(names) < 2:
        return {measure: Interval(value, float("nan"), float("nan")) for measure, value in values.items()}
    drawn_RN = numpy_generator(0, "propagation/bootstrap", "sequences").integers(0, len(names), (NUM_RESAMPLES, len(names)))
    resampled = [
        score([[row for index in drawn_N for row in rows[names[index]]] for rows in by_sequence]) for drawn_N in drawn_RN
    ]
    tail = (1 - CONFIDENCE) / 2
    intervals = {}
    for measure, value in values.items():
        counted = [scores[measure] for scores in resampled if not np.isnan(scores[measure])]
        low, high = np.quantile(counted, [tail, 1 - tail]).tolist() if counted else (float("nan"), float("nan"))
        intervals[measure] = Interval(value, low, high)
    return intervals


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
        if different := sorted(set(names) ^ set(other)):
            raise ValueError(
                f"the tables hold different sequences ({', '.join(different[:5])}{' ...' if len(different) > 5 else ''} in some only); "
                "evaluate all encoders on the same set"
            )
    return names
