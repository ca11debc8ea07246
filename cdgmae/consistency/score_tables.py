"""The score table, one row per scored pair: its columns, and what every table must satisfy before it is written."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.settings.pretrain import SCORE_COLUMNS
from cdgmae.storage.image_shards import BAD, OK

METRICS = SCORE_COLUMNS
COMPARED = METRICS[:3]
"""The scores that the paper gives."""

SCORE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("view_a", pa.int32(), nullable=False),
        pa.field("view_b", pa.int32(), nullable=False),
        pa.field("gs", pa.float32()),
        pa.field("ls", pa.float32()),
        pa.field("nps", pa.float32()),
        pa.field("nps_reverse", pa.float32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("class_name", pa.string()),
        pa.field("nearest_patches", pa.list_(pa.uint16())),
        pa.field("nearest_similarities", pa.list_(pa.float32())),
    ]
)
"""Columns of a score table. `view_a` is 0, the real image, or the lower view_index of a pair of views; the four scores are null
where `status` is `bad`, and `reason` says why; `encoder` is the digest of the scoring encoder's weights, `class_name`
the class of the real image, null where it has none (tables of earlier versions lack it and read as null). The last two
are null but for the pairs of a few chosen bags: for each patch of view_a, row by row, the number of view_b's nearest patch and the cosine
to it (mean: `nps`). Patches are those of the central square, `image_size` / `patch_size` (file metadata) to a side."""

NEAREST_COLUMNS = ("nearest_patches", "nearest_similarities")

QUERY_SCHEMA = pa.schema([field.with_nullable(True) for field in SCORE_SCHEMA if field.name not in NEAREST_COLUMNS])
QUERY_COLUMNS = tuple(QUERY_SCHEMA.names)
"""Columns with one value per row: what an expression may name and a query gives."""


def check_scores(table: pa.Table) -> None:
    """Refuse a score table that breaks its contract.

    Raises:
        ValueError: if rows are not unique and sorted by (key, view_a, view_b), a status is unknown, a good row lacks a score or has one
            out of range, or a bad row has a score or no reason.
    """
    pairs = list(zip(*(table[name].to_pylist() for name in ("key", "view_a", "view_b")), strict=True))
    if any(first >= second for first, second in pairwise(pairs)):
        raise ValueError("score table: rows must be unique and sorted by key, then view_a, then view_b")
    unknown = set(table["status"].unique().to_pylist()) - {OK, BAD}
    if unknown:
        raise ValueError(f"score table: status {sorted(unknown)} is unknown; allowed: {OK}, {BAD}")
    good, bad = (table.filter(pc.equal(table["status"], status)) for status in (OK, BAD))
    for metric in METRICS:
        wrong = pc.invert(pc.less_equal(pc.abs(good[metric]), 1)).fill_null(True)
        if pc.any(wrong).as_py():
            row = good.filter(wrong).slice(0, 1).to_pylist()[0]
            raise ValueError(
                f"{metric} = {row[metric]} of {row['key']}, views {row['view_a']} and {row['view_b']}, is no cosine similarity "
                "(-1..1); the encoder gives tokens that are not finite: check its weights, or score in fp32"
            )
        if bad[metric].null_count != bad.num_rows:
            raise ValueError(f"score table: a bad row has a value of {metric}; it must be null")
    if bad["reason"].null_count:
        raise ValueError("score table: a bad row has no reason")
