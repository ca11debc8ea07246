"""The bag of views: one key, view 0 = the real image, views 1..M from a view source, joined by key.

This is all that pre-training and scoring see; which source filled the bags makes no difference to them. ImageNet with four views
is 1.3 M bags and 6.4 M views, so places and sizes lie in NumPy columns, one row per view.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.storage.image_shards import OK, index_path, read_index
from cdgmae.storage.tar_reads import TarReader
from cdgmae.storage.view_weights import ViewWeights

PLACE_COLUMNS = {"view_index": np.int32, "offset": np.int64, "length": np.int32, "width": np.int32, "height": np.int32}
"""Index columns that say where a view lies and how large it is; `length` and sizes in bytes and pixels."""

READING_THREADS = 8
"""Indices read at a time; on network file systems waiting for them takes longer than reading them."""


class Bag(NamedTuple):
    """One key and its views, in view_index order with the real image first."""

    key: str
    rows: range
    """The views' rows in the store."""
    view_indices: list[int]
    sizes: list[tuple[int, int]]
    """(width, height) of each view in pixels."""
    weights: npt.NDArray[np.float32] | None
    """How often each view is drawn, relative to the real image's 1; none if views are not weighted."""


class BagStore:
    """All bags of a data set and a view source, in key order, with random access to any view's bytes.

    Attributes:
        bags_left_out: Number of bags with too few views.
    """

    def __init__(
        self,
        real_tars: Sequence[Path],
        view_tars: Sequence[Path] = (),
        *,
        min_views: int = 0,
        weights: ViewWeights | None = None,
    ) -> None:
        """Join real and view shards.

        Args:
            real_tars: Tars of section `shards`.
            view_tars: Tars of one view source; empty for a source without files.
            min_views: Bags with fewer generated views are left out (their views failed; the view index says why).
            weights: Weights of the generated views; those of weight 0 do not count and are never drawn.

        Raises:
            ValueError: if a view belongs to no real image, a view comes twice, or no bag is left.
        """
        self._tars = TarReader([*real_tars, *view_tars])
        real, views = _read_places(real_tars, 0), _read_places(view_tars, len(real_tars))
        real = real.take(pc.sort_indices(real["key"]))
        keys = real["key"].combine_chunks()
        rows = pa.concat_tables([real, views])
        bags = self._bags_of(rows, keys)
        columns = {name: rows[name].to_numpy() for name in rows.column_names if name != "key"}
        columns["weight"] = np.ones(len(bags), np.float32)
        if weights is not None:
            columns["weight"][len(keys) :] = weights.of(keys, bags[len(keys) :], columns["view_index"][len(keys) :])
        drawable = columns["weight"] > 0
        enough = np.bincount(bags[drawable], minlength=len(keys)) > min_views  # the real image counts too
        if not enough.any():
            passing = " that may be drawn by view_filter and view_weight" if weights is not None else ""
            raise ValueError(
                f"no bag has {min_views} generated view(s){passing}; look at status and reason in the view indices"
                + (", and at the scores of stage consistency" if weights is not None else "")
            )
        kept = np.flatnonzero(drawable & enough[bags])
        kept = kept[np.lexsort((columns["view_index"][kept], bags[kept]))]
        self._view_index, self._shard, self._offset = (columns[name][kept] for name in ("view_index", "shard", "offset"))
        self._length, self._width, self._height = (columns[name][kept] for name in ("length", "width", "height"))
        self._weights = columns["weight"][kept] if weights is not None and weights.view_weight is not None else None
        self._refuse_twice(bags[kept], keys)
        self._keys = keys.filter(pa.array(enough))
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(bags[kept], minlength=len(keys))[enough])])
        self.bags_left_out = len(keys) - len(self)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def decoded_bytes(self) -> int:
        """Bytes that all views together take as 8-bit RGB."""
        return int(3 * np.sum(self._width.astype(np.int64) * self._height))

    def bag(self, position: int) -> Bag:
        """The bag at a position, 0 <= position < len."""
        first, end = int(self._starts[position]), int(self._starts[position + 1])
        sizes = list(zip(self._width[first:end].tolist(), self._height[first:end].tolist(), strict=True))
        weights = self._weights[first:end] if self._weights is not None else None
        return Bag(self._keys[position].as_py(), range(first, end), self._view_index[first:end].tolist(), sizes, weights)

    def read(self, row: int) -> bytes:
        """Encoded bytes of one view, by its row."""
        return self._tars.read(int(self._shard[row]), int(self._offset[row]), int(self._length[row]))

    def describe(self, row: int) -> str:
        """File and view_index of a row, for messages."""
        return f"{self._tars.paths[int(self._shard[row])]}, view {self._view_index[row]}"

    def _bags_of(self, rows: pa.Table, keys: pa.Array) -> npt.NDArray[np.int64]:
        """Position in `keys` of each row's key."""
        found = pc.index_in(rows["key"], value_set=keys)
        if found.null_count:
            stray = rows.filter(pc.is_null(found)).group_by("shard").aggregate([([], "count_all")])
            counts = {str(self._tars.paths[row["shard"]]): row["count_all"] for row in stray.to_pylist()}
            raise ValueError(
                f"views without a real image: {counts}; the views were made from other shards, rerun the views stage"
            )
        return np.asarray(found, dtype=np.int64)

    def _refuse_twice(self, bags: npt.NDArray[np.int64], keys: pa.Array) -> None:
        twice = np.flatnonzero((np.diff(bags) == 0) & (np.diff(self._view_index) == 0))
        if len(twice):
            row = int(twice[0])
            raise ValueError(
                f"{keys[int(bags[row])].as_py()!r} is there twice: {self.describe(row)} and {self.describe(row + 1)}; "
                "give the shards of one data set and one view source"
            )


def _read_places(tars: Sequence[Path], first: int) -> pa.Table:
    """key, `PLACE_COLUMNS` and `shard` (counted from `first`) of every good row of the tars' indices."""
    schema = pa.schema(
        {"key": pa.string(), "status": pa.string(), **{name: pa.from_numpy_dtype(kind) for name, kind in PLACE_COLUMNS.items()}}
    )
    with ThreadPoolExecutor(READING_THREADS) as pool:
        tables = list(pool.map(lambda tar: read_index(tar, schema.names).cast(schema), tars))
    shards = np.repeat(np.arange(first, first + len(tars), dtype=np.int32), [len(table) for table in tables])
    rows = pa.concat_tables([schema.empty_table(), *tables]).append_column("shard", pa.array(shards))
    rows = rows.filter(pc.equal(rows["status"], OK)).drop_columns("status")
    for name in PLACE_COLUMNS:
        if rows[name].null_count:
            shard = rows.filter(pc.is_null(rows[name]))["shard"][0].as_py()
            raise ValueError(
                f"{index_path(tars[shard - first])}: a row with status ok has no {name}; delete the shard and rerun its stage"
            )
    return rows
