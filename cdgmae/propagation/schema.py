"""The table of one encoder on one clip set: a row per sequence and object, part or joint."""

from __future__ import annotations

import pyarrow as pa

from cdgmae.propagation.joints import ALPHAS

HITS = tuple(f"hits_{alpha}" for alpha in ALPHAS)
OBJECT_COLUMNS = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay")
COUNT_COLUMNS = ("intersection", "union", "visible", *HITS)

TABLE_SCHEMA = pa.schema(
    [
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("clip_set", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("item_name", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64()) for name in OBJECT_COLUMNS),
        *(pa.field(name, pa.int64()) for name in COUNT_COLUMNS),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("encoder_digest", pa.string(), nullable=False),
    ]
)
"""`item`: object id (DAVIS, from 1), class id (VIP, from 0) or joint number (JHMDB, from 0); `frames`: frames of the clip.
J and F are fractions over the scored frames (DAVIS); `intersection` and `union` are pixels over all frames (VIP); `visible` and
`hits_*` are frames without the first (JHMDB). Columns of the other clip sets are null. `protocol` is the digest of the protocol,
which the file's metadata hold in full."""
