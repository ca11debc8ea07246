"""Image shards: a tar in the WebDataset convention and its Parquet index.

Members are named `{key}.{view_index}.{extension}`; view_index 0 is the real image. The index has one row per *input*, good or
bad, and gives offset and length of each member's bytes, so images are read at random without opening the tar as a tar.
The tar is committed first and the index last: a shard is complete only if its index is there.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.names import how_to_remake
from cdgmae.storage.files.atomic import sync_folder, temporary_name
from cdgmae.storage.media.images import ImageError
from cdgmae.storage.tables import TableError, file_sha256, metadata_of, read_table, write_table
from cdgmae.storage.tar_reads import TarReader

logger = logging.getLogger("cdgmae")

OK = "ok"
BAD = "bad"

INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("view_index", pa.int32(), nullable=False),
        pa.field("class_name", pa.string()),
        pa.field("source_path", pa.string()),
        pa.field("extension", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("generator", pa.string()),
        pa.field("sampler", pa.string()),
        pa.field("steps", pa.int32()),
        pa.field("guidance", pa.float64()),
        pa.field("precision", pa.string()),
    ]
)
"""Columns of every shard index. The last six are null for real images; width and height are those of the upright image."""

LATER_COLUMNS = ("precision",)
"""Columns that shards of earlier versions lack; they read as null."""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row of a shard index; see `INDEX_SCHEMA`."""

    key: str
    view_index: int
    status: str = OK
    reason: str | None = None
    class_name: str | None = None
    source_path: str | None = None
    extension: str | None = None
    offset: int | None = None
    length: int | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    seed: int | None = None
    generator: str | None = None
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    precision: str | None = None


def index_path(tar_path: Path) -> Path:
    """The index beside a shard's tar."""
    return tar_path.with_suffix(".parquet")


def with_all_columns(index: pa.Table, path: Path) -> pa.Table:
    """An index that was read from `path`, with null columns for those that its version did not have yet; TableError if it is another table."""
    missing = [field for field in INDEX_SCHEMA if field.name not in index.column_names]
    foreign = sorted(field.name for field in missing if field.name not in LATER_COLUMNS)
    if foreign:
        raise TableError(f"{path} is no shard index: it lacks {', '.join(foreign)}; {how_to_remake(path)}")
    for field in missing:
        index = index.append_column(field, pa.nulls(len(index), field.type))
    return index


class _HashingFile:
    """The tar under construction: written front to back, so its SHA-256 is known when it is closed, without reading it again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def sha256(self) -> str:
        return self._hash.hexdigest()

    def sync_and_close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        self._file.close()


class ImageShardWriter:
    """Writes one shard; nothing appears under a final name before `commit`.

    Use as a context manager: leaving it without `commit` (an error, a signal) removes the temporary tar.
    """

    def __init__(self, tar_path: Path) -> None:
        self.tar_path = tar_path
        tar_path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_name(tar_path)
        self._file = _HashingFile(self._temporary)
        self._tar = tarfile.open(fileobj=cast(IO[bytes], self._file), mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by commit or __exit__
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError:  # a full disk, already reported by the write that failed: there is nothing left to keep
            logger.debug("%s could not be closed", self._temporary)
        finally:
            self._temporary.unlink(missing_ok=True)

    def add_image(self, row: ImageRow, data: bytes) -> None:
        """Append one image; offset, length and sha256 of `row` are filled in here.

        Raises:
            ValueError: if `row` has no extension, or its member name is longer than the 100 bytes of a plain tar header.
        """
        if row.extension is None:
            raise ValueError(f"image {row.key}.{row.view_index} has no extension")
        info = tarfile.TarInfo(f"{row.key}.{row.view_index}.{row.extension}")
        if len(info.name.encode()) > 100:
            raise ValueError(f"member name {info.name!r} is longer than 100 bytes; shorten the image's file name")
        info.size, info.mode = len(data), 0o644  # all other header fields stay zero: equal images give an equal tar
        header_offset = self._file.tell()
        self._tar.addfile(info, io.BytesIO(data))
        metadata = {"offset": header_offset + tarfile.BLOCKSIZE, "length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._rows.append({**asdict(row), **metadata})

    def add_failure(self, row: ImageRow) -> None:
        """Record an input that gave no image; `row` must carry status `bad` and a reason."""
        if row.status != BAD or not row.reason:
            raise ValueError(f"failure row of {row.key} needs status 'bad' and a reason")
        self._rows.append(asdict(row))

    def commit(
        self, *, settings_digest: str, inputs: Mapping[str, str] | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Close the tar, rename it to its final name, then write the index."""
        self._tar.close()
        self._file.sync_and_close()
        index_path(self.tar_path).unlink(missing_ok=True)  # never an old index beside a new tar
        os.replace(self._temporary, self.tar_path)
        sync_folder(self.tar_path.parent)
        write_table(
            index_path(self.tar_path), self._rows, INDEX_SCHEMA, settings_digest=settings_digest, inputs=inputs,
            extra={"tar_bytes": self.tar_path.stat().st_size, "tar_sha256": self._file.sha256(), **(extra or {})},
        )  # fmt: skip


def find_shards(folder: Path, like: Sequence[Path] = ()) -> list[Path]:
    """The shard tars of a folder, in order: those that its summary names if it has one, since a smaller num_shards leaves others behind.

    Args:
        folder: Where they lie.
        like: Other shards of the data set; with any, those that are named like one of them.

    Raises:
        ValueError: if there are none.
    """
    tars, summary = sorted(folder.glob("*.tar")), folder / "summary.parquet"
    if not tars:
        raise ValueError(f"{folder} holds no .tar shards; run the stage that makes them first, or check the path")
    wanted = {tar.stem for tar in like} or (
        set(read_table(summary, ["shard"])["shard"].to_pylist()) if summary.is_file() else None
    )
    return tars if wanted is None else [tar for tar in tars if tar.stem in wanted]


def given_shards(given: str | Path | Sequence[str | Path], like: Sequence[Path] = ()) -> list[Path]:
    """Shard tars named as people name them: a folder (`find_shards`), one tar, or several."""
    if not isinstance(given, str | Path):
        return [Path(tar) for tar in given]
    return [Path(given)] if Path(given).is_file() else find_shards(Path(given), like)


def read_index(tar_path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The index of a complete shard, all or some columns.

    Raises:
        TableError: if there is no readable index (the shard is incomplete).
        ValueError: if the tar is missing, shorter than the index says, or newer than the index and not what the index describes: its bytes
            are read once for that.
    """
    path = index_path(tar_path)
    try:
        index = read_table(path, columns)
    except TableError:
        with_all_columns(read_table(path), path)  # says what is wrong if it is another table
        raise
    metadata = metadata_of(index.schema, path)
    expected = metadata.get("tar_bytes")
    if not tar_path.is_file():
        raise ValueError(f"{tar_path} is missing although its index is there; {how_to_remake(path)}")
    actual = tar_path.stat().st_size
    if expected is not None and actual != expected:
        raise ValueError(f"{tar_path} has {actual} bytes, its index says {expected}: truncated; {how_to_remake(tar_path)}")
    changed = tar_path.stat().st_mtime_ns
    if changed > path.stat().st_mtime_ns and metadata.get("tar_sha256", "") not in ("", _sha256_at(tar_path, changed)):
        raise ValueError(
            f"{tar_path} was changed after its index was written, and does not have the sha256 that the index gives; "
            f"{how_to_remake(tar_path)}"
        )
    return index


@lru_cache(maxsize=100_000)
def _sha256_at(tar_path: Path, changed: int) -> str:
    """SHA-256 of a tar that was last changed at a time: of one that was touched after its index was written, once per process."""
    logger.info("%s is newer than its index: its bytes are held against the index's sha256", tar_path)
    return file_sha256(tar_path)


def checksums(sha256: pa.ChunkedArray) -> pa.Array:
    """The first 8 bytes of hexadecimal SHA-256 sums as numbers; 0 where there is none."""
    starts = pc.fill_null(pc.utf8_slice_codeunits(sha256, 0, 16), "0" * 16).to_pylist()
    return pa.array(np.frombuffer(bytes.fromhex("".join(starts)), ">u8").astype(np.uint64))


def check_bytes(data: bytes, checksum: int) -> None:
    """Hold bytes against their checksum (see `checksums`); 0 passes.

    Raises:
        ImageError: if they have changed.
    """
    if checksum and int.from_bytes(hashlib.sha256(data).digest()[:8], "big") != checksum:
        raise ImageError("bytes differ from the SHA-256 in the index")


class ImageShard:
    """A complete shard opened for reading: the index in memory, images by offset."""

    def __init__(self, tar_path: Path) -> None:
        """Read the index of `tar_path`.

        Raises:
            TableError: if there is no readable index (the shard is incomplete), or it is another table.
            ValueError: if the tar is missing or shorter than the index says.
        """
        self.tar_path = tar_path
        self.index = with_all_columns(read_index(tar_path), index_path(tar_path))
        self._tar = TarReader([tar_path])

    def rows(self, status: str | None = None) -> Iterator[ImageRow]:
        """All rows in file order, or only those of one status."""
        for row in self.index.to_pylist():
            if status is None or row["status"] == status:
                yield ImageRow(**row)

    def read(self, row: ImageRow) -> bytes:
        """The bytes of one image, held against the row's SHA-256.

        Raises:
            ImageError: if they have changed since they were written.
            ValueError: if the row has no image or the file ends early.
        """
        if row.offset is None or row.length is None:
            raise ValueError(f"{self.tar_path}: {row.key}.{row.view_index} has no image ({row.reason})")
        data = self.read_at(row.offset, row.length)
        check_bytes(data, int(row.sha256[:16], 16) if row.sha256 else 0)
        return data

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, without moving any file position (safe from several threads, through fork and pickle)."""
        return self._tar.read(0, offset, length)
