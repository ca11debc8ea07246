"""Two view sources on the same real images: differences, wins and correlation of every score.

Shapes: B bags with a scored pair in both sources, M metrics.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import pearsonr, spearmanr

from cdgmae.consistency.bag_scores import BAG_COLUMNS, bag_means
from cdgmae.consistency.bootstrap import mean_intervals
from cdgmae.consistency.data_set import scale_of, score_tables
from cdgmae.consistency.score_tables import METRICS

TIE = 1e-4
"""Bags whose scores differ by less count as ties: it is what other hardware changes."""


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One score in two sources; everything is over bags, the mean of whose pairs is one value.

    Attributes:
        first: Mean of the first source.
        second: Mean of the second source.
        difference: First minus second.
        low: Lower bound of the 95 % bootstrap interval of the difference over bags; None with fewer than two bags.
        high: Upper bound.
        wins_first: Share of bags that score higher in the first source.
        wins_second: The same for the second; the rest are ties.
        pearson: Correlation of the values; None where one of them is constant.
        spearman: Correlation of the ranks.
    """

    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    wins_first: float
    wins_second: float
    pearson: float | None
    spearman: float | None


@dataclass(frozen=True, slots=True)
class SourceComparison:
    """Two sources on their common keys.

    Attributes:
        bags: Keys with a scored pair in both.
        only_first: Keys with a scored pair in the first source alone.
        only_second: The same for the second.
        metrics: Score -> its comparison.
        rows: One row per common key, sorted by it: key, class_name, and of each score the first's, the second's and the difference.
    """

    bags: int
    only_first: int
    only_second: int
    metrics: dict[str, MetricComparison]
    rows: pa.Table

    def summary(self) -> dict[str, Any]:
        """Everything but the rows, JSON-able."""
        shown = {"bags": self.bags, "only_first": self.only_first, "only_second": self.only_second}
        return {**shown, "metrics": {name: asdict(metric) for name, metric in self.metrics.items()}}


def compare_sources(results: Path, first: str, second: str) -> SourceComparison:
    """Compare two sources key by key; one score table is read at a time, and one row per bag is held.

    Args:
        results: Folder with one folder of tables per source.
        first: View source.
        second: Another one.

    Raises:
        ValueError: if there are no tables, they were scored differently, or no key has a scored pair in both.
    """
    if first == second:
        raise ValueError(f"{first!r} is compared with itself; name two sources")
    scales, bags = {}, []
    for source in (first, second):
        tables = score_tables(results, source)
        scales[source] = {scale_of(path) for path in tables}
        bags.append(pa.concat_tables([bag_means(path).select(BAG_COLUMNS) for path in tables]).sort_by("key"))
    if len(set.union(*scales.values())) > 1:
        scored = "; ".join(f"{source}: {' and '.join(sorted(map(str, encoders)))}" for source, encoders in scales.items())
        raise ValueError(
            f"{first} and {second} were scored by different encoders or settings, whose scores do not compare ({scored})"
        )
    ours, theirs = bags
    place = pc.index_in(ours["key"], value_set=theirs["key"].combine_chunks())
    common = pc.is_valid(place)
    rows = _join(ours.filter(common), theirs.take(place.drop_null()))
    if not rows.num_rows:
        raise ValueError(f"{first} and {second} have no key in common: were they made from the same data set?")
    return SourceComparison(
        rows.num_rows, ours.num_rows - rows.num_rows, theirs.num_rows - rows.num_rows, _compare(rows, f"{first} {second}"), rows
    )


def _join(ours: pa.Table, theirs: pa.Table) -> pa.Table:
    """The columns of `SourceComparison.rows` from rows of equal keys."""
    columns = {"key": ours["key"], "class_name": ours["class_name"]}
    for metric in METRICS:
        difference = pc.subtract(ours[metric], theirs[metric])
        columns |= {f"{metric}_first": ours[metric], f"{metric}_second": theirs[metric], f"{metric}_difference": difference}
    return pa.table(columns)


def _compare(rows: pa.Table, stream: str) -> dict[str, MetricComparison]:
    differences_BM = np.stack([rows[f"{metric}_difference"].to_numpy() for metric in METRICS], axis=1)
    intervals = mean_intervals(differences_BM, np.ones(rows.num_rows), f"compare {stream}")
    compared = {}
    for place, metric in enumerate(METRICS):
        first, second = (rows[f"{metric}_{which}"].to_numpy() for which in ("first", "second"))
        difference = differences_BM[:, place]
        constant = np.ptp(first) == 0 or np.ptp(second) == 0
        low, high = (None if np.isnan(bound) else float(bound) for bound in intervals[:, place])
        compared[metric] = MetricComparison(
            float(first.mean()), float(second.mean()), float(difference.mean()), low, high,
            float((difference >= TIE).mean()), float((difference <= -TIE).mean()),
            None if constant else float(pearsonr(first, second).statistic),
            None if constant else float(spearmanr(first, second).statistic),
        )  # fmt: skip
    return compared
