"""The table of one encoder on one clip set: a row per sequence and object, part or joint."""

from __future__ import annotations

import pyarrow as pa

from cdgmae.propagation.measures.joints import ALPHAS

HITS = tuple(f"hits_{alpha}" for alpha in ALPHAS)
PCK_COLUMNS = tuple(f"PCK@{alpha}" for alpha in ALPHAS)
SHARE_COLUMNS = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay", "IoU", *PCK_COLUMNS)
COUNT_COLUMNS = ("intersection", "union", "visible", *HITS)
SIZE_COLUMNS = ("input_height", "input_width", "scored_height", "scored_width")

TABLE_SCHEMA = pa.schema(
    [
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("clip_set", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("item_name", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64()) for name in SHARE_COLUMNS),
        *(pa.field(name, pa.int64()) for name in COUNT_COLUMNS),
        *(pa.field(name, pa.int32()) for name in SIZE_COLUMNS),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("encoder_digest", pa.string(), nullable=False),
    ]
)
"""`item`: object id (DAVIS, from 1), class id (VIP, from 0) or joint number (JHMDB, from 0); `frames`: frames of the clip.
J, F, IoU and PCK are fractions of this row alone: J and F over the scored frames (DAVIS), IoU over all frames (VIP), PCK over the frames
where the joint is visible (JHMDB). Scores of a whole clip set come from the counts, see `cdgmae.propagation.measures.scores`: `intersection` and
`union` are pixels over all frames, `visible` and `hits_*` frames without the first. Columns of the other clip sets are null. Sizes are in
pixels: of the encoder's input, and at which predictions are compared with the truth. `protocol` is JSON: its name and all its settings."""
