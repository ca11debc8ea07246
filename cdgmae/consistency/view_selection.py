"""How many views and bags a condition on the scores keeps, before anyone trains on them.

Shapes: V views that meet the condition, B their bags, T thresholds.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from cdgmae.consistency.data_set import open_scores, score_tables
from cdgmae.consistency.score_tables import METRICS, QUERY_COLUMNS
from cdgmae.storage.expressions import arrow_filter
from cdgmae.storage.image_shards import OK

NUM_THRESHOLDS = 20
STEP = 1e-3
"""Thresholds are whole multiples of this, rounded down."""

REAL = pc.field("view_a") == 0


def count_kept(results: Path, expression: str, source: str, num_anchors: int) -> dict[str, Any]:
    """Count what a run's view filter would leave; one table is read at a time.

    A view is kept if the pair of the real image and the view meets the condition. A bag is kept if enough of its views are left
    for `num_anchors` anchors beside the target, as pre-training asks.

    Args:
        results: Folder with one folder of tables per source.
        expression: Condition on `QUERY_COLUMNS`.
        source: Name of the source.
        num_anchors: Views that a bag needs besides its target.

    Returns:
        `bags`, `views` (all, as scored), `kept_bags`, `kept_views` (of kept bags), `kept_bags_share`, `kept_views_share`,
        `views_meeting` (whatever their bag) and `bags_by_kept_views` (number of kept views -> bags).

    Raises:
        ValueError: if the expression is not understood, there are no tables, or they hold no pair with a real image.
    """
    condition = _good_views(expression, num_anchors)
    bags = views = 0
    kept_views: Counter[int] = Counter()
    for path in score_tables(results, source):
        data = open_scores([path])
        everything = data.to_table(columns=["key"], filter=REAL)
        num_bags = pc.count_distinct(everything["key"]).as_py()
        meeting = data.to_table(columns=["key"], filter=condition)
        counts = meeting["key"].value_counts().field("counts").to_numpy()
        numbers, of_bags = np.unique(counts, return_counts=True)
        kept_views.update(dict(zip(numbers.tolist(), of_bags.tolist(), strict=True)))
        kept_views[0] += num_bags - len(counts)
        bags += num_bags
        views += everything.num_rows
    _check_views(views, source)
    trained_on = {number: count for number, count in kept_views.items() if number >= num_anchors}
    num_kept, num_kept_views = sum(trained_on.values()), sum(number * count for number, count in trained_on.items())
    return {
        "source": source, "expression": expression, "num_anchors": num_anchors, "bags": bags, "kept_bags": num_kept,
        "kept_bags_share": num_kept / bags, "views": views, "kept_views": num_kept_views, "kept_views_share": num_kept_views / views,
        "views_meeting": sum(number * count for number, count in kept_views.items()),
        "bags_by_kept_views": {number: kept_views[number] for number in sorted(kept_views) if kept_views[number]},
    }  # fmt: skip


def sweep_threshold(results: Path, metric: str, source: str, num_anchors: int, expression: str | None = None) -> dict[str, Any]:
    """What `metric >= threshold` would keep, for thresholds between which a twentieth of the views lies; one table is read at a time.

    Args:
        results: Folder with one folder of tables per source.
        metric: One of `METRICS`.
        source: Name of the source.
        num_anchors: Views that a bag needs besides its target.
        expression: Condition that a view must meet as well; None for any.

    Returns:
        `bags` and `views` in all, as scored, and `thresholds`: rows of `filter` (as a run's `view_filter`), `kept_bags`, `kept_bags_share`,
        `kept_views` (of kept bags) and `kept_views_share`.

    Raises:
        ValueError: if the metric or the expression is not understood, there are no tables, or no view meets the expression.
    """
    if metric not in METRICS:
        raise ValueError(f"--sweep {metric}: no such score; allowed: {', '.join(METRICS)}")
    condition, tables = _good_views(expression, num_anchors), score_tables(results, source)
    views = sum(open_scores([path]).count_rows(filter=REAL) for path in tables)
    _check_views(views, source)
    values = np.concatenate([open_scores([path]).to_table([metric], filter=condition)[metric].to_numpy() for path in tables])
    if not len(values):
        raise ValueError(
            f"source {source!r}: no view meets {expression or 'the condition of having scores'}; nothing is left to sweep"
        )
    quantiles = np.quantile(values, np.arange(NUM_THRESHOLDS) / NUM_THRESHOLDS)
    steps = np.unique(np.floor(quantiles / STEP).astype(int))
    thresholds_T = np.array([float(f"{step * STEP:.3f}") for step in steps])  # the written numbers exactly
    bags, counts = 0, np.zeros((2, len(steps)), np.int64)
    for path in tables:
        bags += pc.count_distinct(open_scores([path]).to_table(["key"], filter=REAL)["key"]).as_py()
        counts += _kept_at(path, metric, condition, thresholds_T, num_anchors)
    prefix = f"({expression}) and " if expression else ""
    rows = [
        {
            "filter": f"{prefix}{metric} >= {threshold:.3f}", "kept_bags": int(kept_bags), "kept_bags_share": kept_bags / bags,
            "kept_views": int(kept_views), "kept_views_share": kept_views / views,
        }
        for threshold, kept_bags, kept_views in zip(thresholds_T, *counts, strict=True)
    ]  # fmt: skip
    return {"source": source, "num_anchors": num_anchors, "bags": bags, "views": views, "thresholds": rows}


def _kept_at(
    path: Path, metric: str, condition: pc.Expression, thresholds_T: npt.NDArray[np.float64], num_anchors: int
) -> npt.NDArray[np.int64]:
    """Bags and views (2, T) of one table that each threshold keeps; its rows are sorted by key."""
    rows = open_scores([path]).to_table(["key", metric], filter=condition)
    if not rows.num_rows:
        return np.zeros((2, len(thresholds_T)), np.int64)
    keys = rows["key"].combine_chunks()
    starts_B = np.flatnonzero(np.concatenate([[True], pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)]))
    passing_VT = rows[metric].to_numpy()[:, None].astype(np.float64) >= thresholds_T
    counts_BT = np.add.reduceat(passing_VT, starts_B, axis=0, dtype=np.int64)
    counts_BT[counts_BT < num_anchors] = 0
    return np.stack([np.count_nonzero(counts_BT, axis=0), counts_BT.sum(axis=0)])


def _good_views(expression: str | None, num_anchors: int) -> pc.Expression:
    if num_anchors < 1:
        raise ValueError(f"--num-anchors {num_anchors}: a bag needs at least 1 view besides its target")
    scored = REAL & (pc.field("status") == OK)
    return scored if expression is None else scored & arrow_filter(expression, QUERY_COLUMNS)


def _check_views(views: int, source: str) -> None:
    if not views:
        raise ValueError(f"source {source!r} has no pair of a real image and a view: a filter has nothing to choose from")
