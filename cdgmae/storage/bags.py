"""The bag of views: one key, view 0 = the real image, views 1..M from a view source, joined by key.

Everything that looks at bags reads them here: pre-training, scoring, the report, `views show`; which source filled them makes no difference.
ImageNet with four views is 1.3 M bags and 6.4 M views, so places and sizes lie in NumPy columns, one row per view; what only single views
are asked for (reason, class, checksum, how it was made) is read from the shard's index on demand.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from cdgmae.names import how_to_remake
from cdgmae.storage.image_shards import OK, ImageRow, ImageShard, check_bytes, checksums, given_shards, index_path, read_index
from cdgmae.storage.media.images import MAX_STORED_PIXELS, ImageError, decode_rgb
from cdgmae.storage.tar_reads import TarReader
from cdgmae.storage.view_weights import ViewWeights

PLACE_COLUMNS = {"view_index": np.int32, "offset": np.int64, "length": np.int32, "width": np.int32, "height": np.int32}
"""Index columns that say where a view lies and how large it is; `length` and sizes in bytes and pixels."""

READING_THREADS = 8
"""Indices read at a time; on network file systems waiting for them takes longer than reading them."""

MAX_INDICES = 8
"""Indices kept whole for single rows."""


class Bag(NamedTuple):
    """One key and its views, in view_index order with the real image first."""

    key: str
    rows: range
    """The views' rows in the `Bags`."""
    view_indices: list[int]
    sizes: list[tuple[int, int]]
    """(width, height) of each view in pixels; (0, 0) where there is no image."""
    weights: npt.NDArray[np.float32] | None
    """How often each view is drawn, relative to the real image's 1; none if views are not weighted."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Columns of all views, sorted by bag, then view_index."""

    view_index: npt.NDArray[np.int32]
    shard: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    good: npt.NDArray[np.bool_]
    checksum: npt.NDArray[np.uint64]
    """First 8 bytes of the SHA-256 of the view's bytes: 51 MB for 6.4 M views, and no chance to miss damage."""

    def take(self, places: npt.NDArray[Any]) -> _Rows:
        """The rows at `places`, positions or a mask."""
        return _Rows(*(getattr(self, name)[places] for name in self.__slots__))


class Bags:
    """All bags of a data set and a view source in key order, with random access to any image by key and view_index.

    Bags(real, views) has a bag for every row of the real shards' indices, with what failed; `usable` gives those that can be drawn
    from. A row is the number of one view, counted over all bags: `bag(position).rows`. Safe from several threads, after fork and
    through pickle; however many shards there are, few files are open.

    Attributes:
        bags_left_out: Bags with a real image that `usable` left out.
    """

    def __init__(self, real: str | Path | Sequence[str | Path], views: str | Path | Sequence[str | Path] = ()) -> None:
        """Join real and view shards; only their indices are read.

        Args:
            real: Shards of real images: a folder, a tar or several.
            views: Shards of one view source, likewise; empty for a source without files.

        Raises:
            ValueError: if there is no shard or an incomplete one, a view belongs to no real image, or a view comes twice.
        """
        real_tars = given_shards(real)
        view_tars = given_shards(views, real_tars)
        self._tars = TarReader([*real_tars, *view_tars])
        places = _read_places(real_tars, 0)
        places = places.take(pc.sort_indices(places["key"]))
        self._keys: pa.StringArray = places["key"].combine_chunks()
        rows = pa.concat_tables([places, _read_places(view_tars, len(real_tars))])
        bags = self._bags_of(rows)
        order = np.lexsort((rows["view_index"].to_numpy(), bags))
        self._rows = _Rows(*(rows[name].to_numpy() for name in _Rows.__slots__)).take(order)
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(bags, minlength=len(self._keys)))])
        self._weights: npt.NDArray[np.float32] | None = None
        self.bags_left_out = 0
        self._refuse_twice(bags[order])
        self._start_process()

    def usable(self, *, min_views: int = 0, weights: ViewWeights | None = None) -> Self:
        """The bags that can be drawn from, with their good images alone.

        Args:
            min_views: Bags with fewer generated views are left out (their views failed; the view index says why).
            weights: Weights of the generated views; those of weight 0 do not count and are never drawn.

        Raises:
            ValueError: if no bag is left.
        """
        bags = np.repeat(np.arange(len(self)), np.diff(self._starts))
        has_real = self._rows.good[self._starts[:-1]]  # the first row of a bag is its real image
        weight = (self._rows.good & has_real[bags]).astype(np.float32)
        if weights is not None:
            views = self._rows.view_index > 0
            weight[views] *= weights.of(self._keys, bags[views], self._rows.view_index[views])
        usable = weight > 0
        enough = np.bincount(bags[usable], minlength=len(self)) > min_views  # the real image counts too
        if not enough.any():
            raise ValueError(self._describe_lack(min_views, weights))
        usable &= enough[bags]
        chosen = copy(self)
        chosen._rows, chosen._keys = self._rows.take(usable), self._keys.filter(pa.array(enough))
        chosen._starts = np.concatenate([[0], np.cumsum(np.bincount(bags[usable], minlength=len(self))[enough])])
        chosen._weights = weight[usable] if weights is not None and weights.view_weight is not None else None
        chosen.bags_left_out = int(has_real.sum()) - len(chosen)
        chosen._start_process()
        return chosen

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        """The keys in order."""
        return (key.as_py() for key in self._keys)

    def __contains__(self, key: str) -> bool:
        place = self._place(key)
        return place < len(self) and self._keys[place].as_py() == key

    @property
    def keys(self) -> list[str]:
        """All keys in order."""
        keys: list[str] = self._keys.to_pylist()
        return keys

    @property
    def decoded_bytes(self) -> int:
        """Bytes that all views together take as 8-bit RGB."""
        return int(3 * np.sum(self._rows.width.astype(np.int64) * self._rows.height))

    def position(self, key: str) -> int:
        """Where a key stands.

        Raises:
            KeyError: if no bag has it.
        """
        if key not in self:
            raise KeyError(key)
        return self._place(key)

    def bag(self, position: int) -> Bag:
        """The bag at a position, 0 <= position < len."""
        first, end = int(self._starts[position]), int(self._starts[position + 1])
        rows = self._rows
        sizes = list(zip(rows.width[first:end].tolist(), rows.height[first:end].tolist(), strict=True))
        weights = self._weights[first:end] if self._weights is not None else None
        return Bag(self._keys[position].as_py(), range(first, end), rows.view_index[first:end].tolist(), sizes, weights)

    def row(self, row: int) -> ImageRow:
        """Everything that the shard's index says about a view: class, status and reason, checksum, how it was made."""
        index, number = self._find(row)
        return ImageRow(**index.slice(number, 1).to_pylist()[0])

    def read(self, row: int) -> bytes:
        """Encoded bytes of one good view, held against the index's checksum; that takes a few percent of their decoding.

        Raises:
            ImageError: if the bytes have changed since they were written.
        """
        rows = self._rows
        data = self._tars.read(int(rows.shard[row]), int(rows.offset[row]), int(rows.length[row]))
        check_bytes(data, int(rows.checksum[row]))
        return data

    def read_checked(self, row: int) -> bytes:
        """As `read`, of any view.

        Raises:
            ImageError: if the index calls the view bad, with its reason, or the bytes have changed since.
        """
        self._refuse_bad(row)
        return self.read(row)

    def image(self, row: int) -> Image.Image:
        """One view in RGB.

        Raises:
            ImageError: if the index calls the view bad, with its reason, or its bytes cannot be decoded.
        """
        self._refuse_bad(row)
        return decode_rgb(self.read(row), MAX_STORED_PIXELS)

    def images(self, key: str) -> list[Image.Image]:
        """The good images of one bag in RGB, the real image first, then its views.

        Raises:
            KeyError: if no bag has the key.
            ImageError: if the bytes of one of them cannot be decoded.
        """
        return [self.image(row) for row in self.bag(self.position(key)).rows if self.is_good(row)]

    def is_good(self, row: int) -> bool:
        """Whether the index says that there is an image."""
        return bool(self._rows.good[row])

    def path(self, row: int) -> Path:
        """The tar that holds a row."""
        return self._tars.paths[int(self._rows.shard[row])]

    def describe(self, row: int) -> str:
        """File and view_index of a row, for messages."""
        return f"{self.path(row)}, view {self._rows.view_index[row]}"

    def _start_process(self) -> None:
        self._lock = threading.Lock()
        self._indices: OrderedDict[int, tuple[pa.Table, dict[tuple[str, int], int]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_indices")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_process()

    def _place(self, key: str) -> int:
        return bisect.bisect_left(range(len(self)), key, key=lambda position: self._keys[position].as_py())

    def _find(self, row: int) -> tuple[pa.Table, int]:
        """The whole index that holds a row, and the row's number in it."""
        shard = int(self._rows.shard[row])
        with self._lock:
            if shard not in self._indices:
                index = ImageShard(self._tars.paths[shard]).index
                pairs = zip(index["key"].to_pylist(), index["view_index"].to_pylist(), strict=True)
                self._indices[shard] = index, {pair: number for number, pair in enumerate(pairs)}
                if len(self._indices) > MAX_INDICES:
                    self._indices.popitem(last=False)
            index, numbers = self._indices[shard]
            self._indices.move_to_end(shard)
        position = int(np.searchsorted(self._starts, row, side="right")) - 1
        return index, numbers[self._keys[position].as_py(), int(self._rows.view_index[row])]

    def _refuse_bad(self, row: int) -> None:
        if not self.is_good(row):
            raise ImageError(self.row(row).reason or "marked bad in the index")

    def _bags_of(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """Position of each row's key."""
        positions = pc.index_in(rows["key"], value_set=self._keys)
        if positions.null_count:
            stray = rows.filter(pc.is_null(positions)).group_by("shard").aggregate([([], "count_all")])
            counts = {str(self._tars.paths[row["shard"]]): row["count_all"] for row in stray.to_pylist()}
            example = rows["key"][int(np.flatnonzero(pc.is_null(positions).to_numpy())[0])].as_py()
            raise ValueError(
                f"views without a real image: {counts}, e.g. {example!r}; the views were made from other shards; "
                f"{how_to_remake(Path(next(iter(counts))))}"
            )
        return np.asarray(positions, dtype=np.int64)

    def _refuse_twice(self, bags: npt.NDArray[np.int64]) -> None:
        rows = self._rows
        twice = np.flatnonzero((np.diff(bags) == 0) & (np.diff(rows.view_index) == 0))
        if len(twice):
            row = int(twice[0])
            raise ValueError(
                f"{self._keys[int(bags[row])].as_py()!r} is there twice: {self.describe(row)} and {self.describe(row + 1)}; "
                "give the shards of one data set and one view source"
            )

    def _describe_lack(self, min_views: int, weights: ViewWeights | None) -> str:
        if not min_views and weights is None:
            return f"no usable image in {', '.join(map(str, self._tars.paths))}; see status and reason in the shard indices"
        passing = " that may be drawn by view_filter and view_weight" if weights is not None else ""
        scores = ", and at the scores of stage consistency" if weights is not None else ""
        return f"no bag has {min_views} generated view(s){passing}; look at status and reason in the view indices{scores}"


def _read_places(tars: Sequence[Path], first: int) -> pa.Table:
    """key, `PLACE_COLUMNS`, `good` and `shard` (counted from `first`) of every row of the tars' indices."""
    stored = {
        "key": pa.string(),
        "status": pa.string(),
        **{name: pa.from_numpy_dtype(kind) for name, kind in PLACE_COLUMNS.items()},
    }
    schema = pa.schema({**stored, "checksum": pa.uint64()})

    def read(tar: Path) -> pa.Table:
        index = read_index(tar, [*stored, "sha256"])
        return pa.table([*(index[name] for name in stored), checksums(index["sha256"])], names=schema.names).cast(schema)

    with ThreadPoolExecutor(READING_THREADS) as pool:
        tables = list(pool.map(read, tars))
    shards = np.repeat(np.arange(first, first + len(tars), dtype=np.int32), [len(table) for table in tables])
    rows = pa.concat_tables([schema.empty_table(), *tables]).append_column("shard", pa.array(shards))
    rows = rows.append_column("good", pc.equal(rows["status"], OK)).drop_columns("status")
    for name in PLACE_COLUMNS:
        if rows[name].null_count:
            lacking = rows.filter(pc.and_(rows["good"], pc.is_null(rows[name])))
            if lacking.num_rows:
                raise ValueError(
                    f"{index_path(tars[lacking['shard'][0].as_py() - first])}: a row with status ok has no {name}; "
                    f"{how_to_remake(tars[lacking['shard'][0].as_py() - first])}"
                )
            rows = rows.set_column(rows.schema.get_field_index(name), name, pc.fill_null(rows[name], 0))
    return rows
