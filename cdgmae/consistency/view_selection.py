"""How many views and bags a condition on the scores keeps, before anyone trains on them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cdgmae.consistency.data_set import open_scores, score_tables
from cdgmae.consistency.score_tables import QUERY_COLUMNS
from cdgmae.storage.expressions import arrow_filter
from cdgmae.storage.image_shards import OK


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
    if num_anchors < 1:
        raise ValueError(f"--num-anchors {num_anchors}: a bag needs at least 1 view besides its target")
    condition = arrow_filter(expression, QUERY_COLUMNS)
    real = pc.field("view_a") == 0
    bags = views = 0
    kept_views: Counter[int] = Counter()
    for path in score_tables(results, source):
        data = open_scores([path])
        everything = data.to_table(columns=["key"], filter=real)
        num_bags = pc.count_distinct(everything["key"]).as_py()
        meeting = data.to_table(columns=["key"], filter=real & (pc.field("status") == OK) & condition)
        counts = meeting["key"].value_counts().field("counts").to_numpy()
        numbers, of_bags = np.unique(counts, return_counts=True)
        kept_views.update(dict(zip(numbers.tolist(), of_bags.tolist(), strict=True)))
        kept_views[0] += num_bags - len(counts)
        bags += num_bags
        views += everything.num_rows
    if not bags:
        raise ValueError(f"source {source!r} has no pair of a real image and a view: a filter has nothing to choose from")
    kept = {number: count for number, count in kept_views.items() if number >= num_anchors}
    num_kept, num_kept_views = sum(kept.values()), sum(number * count for number, count in kept.items())
    return {
        "source": source, "expression": expression, "num_anchors": num_anchors, "bags": bags, "kept_bags": num_kept,
        "kept_bags_share": num_kept / bags, "views": views, "kept_views": num_kept_views, "kept_views_share": num_kept_views / views,
        "views_meeting": sum(number * count for number, count in kept_views.items()),
        "bags_by_kept_views": {number: kept_views[number] for number in sorted(kept_views) if kept_views[number]},
    }  # fmt: skip
