"""What the image-making stages left: counts of shards and views, and every unusable image with its reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.storage.image_shards import BAD, index_path
from cdgmae.storage.tables import read_table, table_metadata

NUM_EXAMPLES = 20
"""Unusable images listed one by one; the rest is counted by reason."""

MAKERS = ("generator", "sampler", "steps", "guidance")


@dataclass(slots=True)
class BadImage:
    """One unusable image: where it is from and why it was refused."""

    name: str
    reason: str


@dataclass(slots=True)
class ImageCounts:
    """One data set or one view source.

    Attributes:
        name: Its name in the config.
        shards: Number of shards that are there.
        expected: Number of shards that the configuration names.
        good: Images that can be used.
        bad: Images that cannot.
        tar_bytes: Size of all tars.
        reasons: Reason, without its details in brackets -> number of images.
        examples: The first bad images.
        makers: How views were made: generator, sampler, steps and guidance, each as found in the index.
        version: Package version that wrote the shards.
    """

    name: str
    shards: int = 0
    expected: int = 0
    good: int = 0
    bad: int = 0
    tar_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[BadImage] = field(default_factory=list)
    makers: dict[str, str] = field(default_factory=dict)
    version: str = ""


def read_images(name: str, tars: Sequence[Path]) -> ImageCounts:
    """Count the images of those shards that are there from their indices; no image is opened.

    Args:
        name: Name of the data set or view source.
        tars: Its shards.

    Raises:
        TableError: if an index is missing or unreadable (the shard is incomplete).
    """
    counts = ImageCounts(name, expected=len(tars))
    makers: dict[str, set[str]] = {column: set() for column in MAKERS}
    for tar in (path for path in tars if path.is_file()):
        columns = ["key", "view_index", "source_path", "status", "reason", *MAKERS]
        index, metadata = read_table(index_path(tar), columns), table_metadata(index_path(tar))
        bad = index.filter(pc.equal(index["status"], BAD))
        counts.shards += 1
        counts.bad += bad.num_rows
        counts.good += index.num_rows - bad.num_rows
        counts.tar_bytes += int(metadata.get("tar_bytes", 0))
        counts.version = str(metadata.get("version", ""))
        _add_reasons(counts, bad)
        for column, values in makers.items():
            values.update(f"{value:g}" if isinstance(value, float) else str(value) for value in _known(index[column]))
    counts.makers = {column: ", ".join(sorted(values)) for column, values in makers.items() if values}
    return counts


def _add_reasons(counts: ImageCounts, bad: pa.Table) -> None:
    for row in bad.to_pylist():
        reason = row["reason"] or "no reason given"
        counts.reasons[re.sub(r" \(.*", "", reason, flags=re.DOTALL)] += 1
        if len(counts.examples) < NUM_EXAMPLES:
            name = row["source_path"] or f"{row['key']}.{row['view_index']}"
            counts.examples.append(BadImage(name, reason))


def _known(column: pa.ChunkedArray) -> list[object]:
    values: list[object] = column.drop_null().unique().to_pylist()
    return values
