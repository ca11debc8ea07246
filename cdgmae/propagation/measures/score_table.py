"""The table of one encoder on one evaluation set: a row per sequence and object, part, joint or image pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cdgmae.propagation.benchmarks.benchmark import SIZE_COLUMNS
from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of

TYPES = {int: pa.int64(), float: pa.float64()}

KEY_COLUMNS = (
    pa.field("encoder", pa.string(), nullable=False),
    pa.field("seed", pa.int64()),
    pa.field("set", pa.string(), nullable=False),
    pa.field("kind", pa.string(), nullable=False),
    pa.field("sequence", pa.string(), nullable=False),
    pa.field("item", pa.int32(), nullable=False),
    pa.field("item_name", pa.string(), nullable=False),
    pa.field("frames", pa.int32(), nullable=False),
)
CONDITION_COLUMNS = (
    *(pa.field(name, pa.int32(), nullable=False) for name in SIZE_COLUMNS),
    pa.field("protocol", pa.string(), nullable=False),
    pa.field("encoder_digest", pa.string(), nullable=False),
)
COMMON_COLUMNS = tuple(field.name for field in (*KEY_COLUMNS, *CONDITION_COLUMNS))
"""What every table has, whatever its kind."""


def table_schema(kind: str) -> pa.Schema:
    """Columns of a table of one kind of evaluation set.

    `seed`: of the run that trained the encoder; `item`: number of the object (DAVIS, from 1), class (VIP, from 0) or joint (JHMDB, from 0);
    `frames`: images of the sequence. Then the kind's own columns (`cdgmae.propagation.benchmarks`): fractions of this row alone (J and F over
    the scored frames, IoU over all frames, PCK over the frames where the joint is visible), and the counts from which the scores of a whole
    set come: `intersection` and `union` in pixels over all frames, `visible` and `hits_*` in frames without the first. Sizes are in pixels:
    of the encoder's input, and at which predictions are compared with the truth. `protocol` is JSON: its name and all its settings.
    """
    own = (pa.field(name, TYPES[number]) for name, number in benchmark_of(kind).columns.items())
    return pa.schema([*KEY_COLUMNS, *own, *CONDITION_COLUMNS])


def check_fractions(kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows with a score that cannot be: the columns of a kind that are no counts are fractions (a decay may be
    negative), or NaN where nothing was to be found.

    Raises:
        ValueError: naming the first one.
    """
    fractions = [name for name, number in benchmark_of(kind).columns.items() if number is float]
    for row in rows:
        for name in fractions:
            value = row.get(name)
            if value is not None and not math.isnan(value) and abs(value) > 1 + 1e-9:
                raise ValueError(
                    f"{name} = {value} of {row['sequence']}, {row['item_name']}, is no fraction: the result of this clip in the work "
                    "folder is damaged, or the measure is wrong; delete the work folder (--work) and run it again"
                )
