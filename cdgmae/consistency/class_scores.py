"""The scores of one view source by class of the real image: which kinds of images its views suit."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.consistency.data_set import open_scores, score_tables
from cdgmae.consistency.score_tables import METRICS
from cdgmae.storage.image_shards import BAD


def score_classes(results: Path, source: str) -> pa.Table:
    """One row per class, lowest mean NPS first; one score table is read at a time.

    Args:
        results: Folder with one folder of tables per source.
        source: View source.

    Returns:
        `class_name` (empty: images without a class), `bags`, `pairs` (all, bad ones too), `bad`, and the mean of each score over scored
        pairs, null if there are none.

    Raises:
        ValueError: if there are no tables, or no pair has a class.
    """
    parts = [_add_up(path) for path in score_tables(results, source)]
    summed = pa.concat_tables(parts)
    names = summed.column_names[1:]
    summed = summed.group_by("class_name").aggregate([(name, "sum") for name in names]).rename_columns(["class_name", *names])
    if not pc.any(pc.not_equal(summed["class_name"], "")).as_py():
        raise ValueError(
            f"no pair of source {source!r} has a class: the real images have none (they lie in one folder), or the tables are of an "
            "earlier version: delete them and score the source again"
        )
    scored = pc.subtract(summed["pairs"], summed["bad"]).cast(pa.float64())
    means = {metric: pc.if_else(pc.greater(scored, 0), pc.divide(summed[metric], scored), None) for metric in METRICS}
    table = pa.table({name: summed[name] for name in ("class_name", "bags", "pairs", "bad")} | means)
    return table.sort_by([("nps", "ascending"), ("class_name", "ascending")])


def _add_up(path: Path) -> pa.Table:
    """Sums of one table by class: bags, pairs, bad ones and every score."""
    rows = open_scores([path]).to_table(["class_name", "key", "status", *METRICS])
    rows = rows.set_column(0, "class_name", pc.fill_null(rows["class_name"], ""))
    rows = rows.append_column("bad", pc.equal(rows["status"], BAD).cast(pa.int64()))
    totals = rows.group_by("class_name").aggregate(
        [("key", "count_distinct"), ("key", "count"), ("bad", "sum"), *((metric, "sum") for metric in METRICS)]
    )
    sums = {
        "class_name": totals["class_name"],
        "bags": totals["key_count_distinct"],
        "pairs": totals["key_count"],
        "bad": totals["bad_sum"],
    }
    return pa.table(sums | {metric: pc.fill_null(totals[f"{metric}_sum"], 0.0) for metric in METRICS})
