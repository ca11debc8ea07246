"""From table rows to the numbers of the paper's Table 5, in percent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cdgmae.propagation.measures.score_schema import HITS, PCK_COLUMNS

SCORE_COLUMNS = ("J&F", "J", "F", "mIoU", *PCK_COLUMNS)

Row = Mapping[str, Any]


def table_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Scores of one encoder on one clip set.

    Args:
        rows: All rows of its table, see `cdgmae.propagation.measures.score_schema.TABLE_SCHEMA`.

    Returns:
        DAVIS: J&F, J, F; VIP: mIoU; JHMDB: PCK@0.1 .. PCK@0.5. Percent, 0..100; not a number where nothing could be counted.
    """
    measures = {"davis": object_scores, "vip": part_scores, "jhmdb": joint_scores}
    sets = {row["clip_set"] for row in rows}
    if len(sets) != 1 or not sets <= set(measures):
        raise ValueError(f"rows of exactly one clip set are needed, found {sorted(sets)}; allowed: {', '.join(measures)}")
    return measures[sets.pop()](rows)


def object_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Mean J and F over objects, not sequences, and their mean (spec 3.6)."""
    region, boundary = (100 * _mean(row[column] for row in rows) for column in ("J_mean", "F_mean"))
    return {"J&F": (region + boundary) / 2, "J": region, "F": boundary}


def part_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Mean over classes of the IoU of all sequences together; classes that never occur are skipped (spec 3.7)."""
    intersection, union = _totals(rows, "intersection"), _totals(rows, "union")
    return {"mIoU": 100 * _mean(intersection[item] / union[item] for item in union if union[item])}


def joint_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Mean over joints of the share of hits among their visible frames of all clips; joints never visible are skipped (spec 3.8)."""
    visible = _totals(rows, "visible")
    scores = {}
    for column, hits_column in zip(PCK_COLUMNS, HITS, strict=True):
        hits = _totals(rows, hits_column)
        scores[column] = 100 * _mean(hits[item] / visible[item] for item in visible if visible[item])
    return scores


def _totals(rows: Sequence[Row], column: str) -> dict[int, int]:
    totals: dict[int, int] = defaultdict(int)
    for row in rows:
        totals[row["item"]] += row[column]
    return totals


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else float("nan")
