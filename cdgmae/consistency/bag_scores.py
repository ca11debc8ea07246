"""The scores of whole bags: means over the pairs of each bag, the unit in which sources and classes are compared."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.consistency.data_set import open_scores
from cdgmae.consistency.score_tables import METRICS
from cdgmae.storage.image_shards import OK

BAG_COLUMNS = ("key", "class_name", *METRICS)


def bag_means(path: Path) -> pa.Table:
    """One row per bag of a score table that has a scored pair.

    Pairs of the real image with a view count; where a table has none, as those of crops, all pairs do.

    Args:
        path: Score table.

    Returns:
        `BAG_COLUMNS`, the scores as means, and `has_patches`: whether the nearest patches of any pair are stored.
    """
    columns = ["key", "class_name", "view_a", *METRICS, "nearest_patches"]
    pairs = open_scores([path]).to_table(columns, filter=pc.field("status") == OK)
    with_real = pc.equal(pairs["view_a"], 0)
    if pc.any(with_real).as_py():
        pairs = pairs.filter(with_real)
    pairs = pairs.append_column("has_patches", pc.is_valid(pairs["nearest_patches"])).drop_columns("nearest_patches")
    aggregates = [("class_name", "one"), *((metric, "mean") for metric in METRICS), ("has_patches", "any")]
    bags = pairs.group_by("key").aggregate(aggregates).select(["key", *(f"{name}_{how}" for name, how in aggregates)])
    return bags.rename_columns([*BAG_COLUMNS, "has_patches"])
