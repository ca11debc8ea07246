"""Nearest patches of a few bags and their similarities, to be drawn in images.

Shapes: N patches of a view, D width.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.consistency.score_tables import NEAREST_COLUMNS, SCORE_SCHEMA
from cdgmae.consistency.scoring.bag_embedding import Embedder, embed_bags
from cdgmae.consistency.scoring.pair_images import BagLoader
from cdgmae.consistency.scoring.similarities import nearest_patches
from cdgmae.storage.image_shards import OK


def choose_bags(table: pa.Table, count: int) -> list[str]:
    """Up to `count` keys at equal distances of the ranking by mean NPS, lowest first; ties are ranked by key."""
    good = table.filter(pc.equal(table["status"], OK)).select(["key", "nps"])
    ranked = good.group_by("key").aggregate([("nps", "mean")]).sort_by([("nps_mean", "ascending"), ("key", "ascending")])
    places = np.unique(np.linspace(0, ranked.num_rows - 1, min(count, ranked.num_rows)).round().astype(int))
    return [str(key) for key in ranked["key"].take(pa.array(places, pa.int64())).to_pylist()]


def with_nearest_patches(table: pa.Table, bags: BagLoader, embed: Embedder, count: int) -> pa.Table:
    """The score table with `NEAREST_COLUMNS` filled for the pairs of `count` bags and null for all others."""
    chosen = choose_bags(table, count) if count else []
    maps: dict[tuple[str, int, int], list[list[float]]] = {}
    for key in chosen:
        for bag in (bag for whole in embed_bags([bags.load(key)], embed, len(bags.view_indices(key))) for bag in whole):
            for view_a, view_b in bags.pairs(key):
                if view_a in bag.tokens_TD and view_b in bag.tokens_TD:
                    x_ND, y_ND = (bag.tokens_TD[view][1:] for view in (view_a, view_b))
                    maps[key, view_a, view_b] = [column[0].tolist() for column in nearest_patches(x_ND[None], y_ND[None])]
    pairs = list(zip(*(table[name].to_pylist() for name in ("key", "view_a", "view_b")), strict=True)) if maps else []
    for place, name in enumerate(NEAREST_COLUMNS):
        values = [maps[pair][place] if pair in maps else None for pair in pairs] or [None] * table.num_rows
        field = SCORE_SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table
