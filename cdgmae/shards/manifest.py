"""The manifest: every image of a data set with its key, class, size and the shard it goes to.

It is written once by one job; each shard's job then reads only its own rows.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import logging
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.names import LEFT_OUT, how_to_remake
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.listing import list_images
from cdgmae.storage.files.atomic import explain_write_errors, write_text
from cdgmae.storage.files.paths import path_to_text
from cdgmae.storage.files.tree_listing import LeftOut
from cdgmae.storage.tables import read_table, table_metadata, write_table

logger = logging.getLogger("cdgmae")

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_path", pa.string(), nullable=False),
        pa.field("class_name", pa.string()),
        pa.field("byte_size", pa.int64(), nullable=False),
        pa.field("tar_path", pa.string()),
        pa.field("tar_offset", pa.int64()),
        pa.field("shard", pa.int32(), nullable=False),
    ]
)
"""Columns of a manifest. `source_path` is relative to the data set's path; in tars it reads `tar!member`, and `tar_path` with
`tar_offset` says where the member's `byte_size` bytes lie. Rows are in listing order. The metadata holds the list of what was left out, packed."""

SHOWN_REASONS = 6

IMAGES_PER_SHARD = 10_000
"""Size of a shard where the user names no number of shards (128 for ImageNet)."""


def write_manifest(settings: DatasetSettings, seed: int, output: Path) -> dict[str, Any]:
    """List a data set and assign every image to a shard.

    The seeded shuffle depends on the seed and the number of images alone; shard sizes differ by at most one. An assignment by hash depends on an
    image's key and the number of shards alone; sizes vary as those of a random draw do.

    Args:
        settings: `path`, `layout`, `num_shards` and `assignment` are used.
        seed: Root seed.
        output: The manifest to write.

    Returns:
        images, left_out (files that are no images of it), classes, megabytes, shards and the manifest's path.

    Raises:
        ValueError: if the data set cannot be listed, has fewer images than shards (by hash: leaves a shard empty), or the output cannot be
            written.
    """
    left_out: list[LeftOut] = []
    return write_listing(list_images(settings, left_out), settings, seed, output, left_out)


def write_listing(
    listing: pa.Table, settings: DatasetSettings, seed: int, output: Path, left_out: Sequence[LeftOut]
) -> dict[str, Any]:
    """As `write_manifest`, from a listing that is already there."""
    count, num_shards = listing.num_rows, settings.num_shards
    if num_shards > count:
        raise ValueError(
            f"num_shards = {num_shards}, but {settings.path} holds only {count} image(s); every shard needs at least one. "
            f"Lower num_shards (shards.datasets.NAME.num_shards) to at most {count}."
        )
    if settings.assignment == "hash":
        shard_of = _by_hash(listing["key"].to_pylist(), settings)
    else:
        shuffle = numpy_generator(seed, "shards", "assignment").permutation(count)
        shard_of = np.empty(count, dtype=np.int32)
        shard_of[shuffle] = np.arange(count) % num_shards
    table = listing.append_column("shard", pa.array(shard_of))
    packed = base64.b64encode(zlib.compress(_as_csv(left_out).encode())).decode()
    metadata = {"images": count, "num_shards": num_shards, "layout": settings.layout, "seed": seed, "left_out": packed}
    with explain_write_errors(output):
        write_table(output, table, MANIFEST_SCHEMA, extra=metadata)
    if left_out:
        reasons = Counter(re.sub(r" of sample .*", " of its sample", item.reason) for item in left_out).most_common(SHOWN_REASONS)
        logger.warning(
            "%d file(s) of %s were left out (%s); %s lists them all (cdgmae shards left-out %s)", len(left_out), settings.path,
            ", ".join(f"{count} x {reason}" for reason, count in reasons), LEFT_OUT, output,
        )  # fmt: skip
    return {
        "images": count,
        "left_out": len(left_out),
        "classes": pc.count_distinct(table["class_name"]).as_py(),
        "megabytes": round(pc.sum(table["byte_size"]).as_py() / 1e6, 3),
        "shards": num_shards,
        "manifest": str(output),
    }


def _by_hash(keys: Sequence[str], settings: DatasetSettings) -> np.ndarray:
    """The shard of every key: its SHA-256 modulo the number of shards."""
    num_shards = settings.num_shards
    shard_of = np.array([int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % num_shards for key in keys], np.int32)
    if empty := num_shards - len(np.unique(shard_of)):
        raise ValueError(
            f"assignment: hash leaves {empty} of num_shards = {num_shards} shard(s) without an image; {settings.path} holds {len(keys)}. "
            "Lower num_shards (100 images per shard and more are safe), or use assignment: shuffle."
        )
    return shard_of


def _as_csv(left_out: Sequence[LeftOut]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LeftOut._fields)
    writer.writerows((path_to_text(item.path), item.reason) for item in left_out)
    return text.getvalue()


def write_left_out(manifest: Path) -> dict[str, Any]:
    """Write `left_out.csv` beside a manifest, which holds the list: every file that is no image of the data set, with the reason.

    Raises:
        ValueError: if the file is no manifest, or the list cannot be written.
    """
    text = zlib.decompress(base64.b64decode(_metadata(manifest)["left_out"])).decode()
    output = manifest.with_name(LEFT_OUT)
    with explain_write_errors(output):
        write_text(output, text)
    return {"left_out": text.count("\n") - 1, "output": str(output)}


def image_count(manifest: Path) -> int:
    """Images of the whole data set, from the manifest's metadata.

    Raises:
        ValueError: if the file is no manifest.
    """
    return int(_metadata(manifest)["images"])


def manifest_seed(manifest: Path) -> int:
    """The root seed that the manifest was made with.

    Raises:
        ValueError: if the file is no manifest.
    """
    return int(_metadata(manifest)["seed"])


def shard_rows(manifest: Path, settings: DatasetSettings, shard_index: int) -> list[dict[str, Any]]:
    """The rows of one shard, sorted by key.

    Raises:
        ValueError: if the manifest was made for another layout or number of shards, or has no such shard.
    """
    metadata = _metadata(manifest)
    for name in ("num_shards", "layout"):
        if metadata[name] != getattr(settings, name):
            raise ValueError(
                f"{manifest} was made with {name} = {metadata[name]!r}, the settings say {getattr(settings, name)!r}; "
                f"correct the settings, or {how_to_remake(manifest)}"
            )
    if not 0 <= shard_index < settings.num_shards:
        raise ValueError(f"{manifest} has shards 0 to {settings.num_shards - 1}, there is no shard {shard_index}")
    table = read_table(manifest)
    rows: list[dict[str, Any]] = table.filter(pc.equal(table["shard"], shard_index)).sort_by("key").to_pylist()
    return rows


def _metadata(manifest: Path) -> dict[str, Any]:
    metadata = table_metadata(manifest)
    if not {"images", "num_shards", "layout", "seed", "left_out"} <= metadata.keys():
        raise ValueError(f"{manifest} is not a manifest of this package; {how_to_remake(manifest)}")
    return metadata
