"""The check behind the shards: one row per shard, a table of all bad images, and an error when they are too many."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.names import BAD_IMAGES, REFUSED_IMAGES, how_to_remake
from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.manifest import image_count
from cdgmae.storage.files.atomic import explain_write_errors, write_text
from cdgmae.storage.image_shards import BAD, OK, index_path, read_index
from cdgmae.storage.tables import file_sha256, table_metadata, write_csv, write_table

SUMMARY_NAME = "summary.parquet"
NUM_EXAMPLES = 5

SUMMARY_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("ok", pa.int64(), nullable=False),
        pa.field("bad", pa.int64(), nullable=False),
        pa.field("tar_bytes", pa.int64(), nullable=False),
        pa.field("tar_sha256", pa.string(), nullable=False),
    ]
)
"""Columns of `summary.parquet`: images packed and refused, size and SHA-256 of each tar."""


class BadImages:
    """Counts unusable images by reason and knows when they are more than the data set may have."""

    def __init__(self, max_fraction: float, total: int) -> None:
        """Start with none.

        Args:
            max_fraction: Allowed share of bad images, 0 to 1.
            total: Images of the whole data set.
        """
        self.max_fraction, self.total = max_fraction, total
        self.reasons: Counter[str] = Counter()
        self.examples: list[str] = []

    @property
    def count(self) -> int:
        """Bad images so far."""
        return self.reasons.total()

    @property
    def too_many(self) -> bool:
        """Whether the allowed share is exceeded."""
        return self.count > self.max_fraction * self.total

    def add(self, source_path: str, reason: str) -> None:
        """Count one; details in brackets do not make a reason of their own."""
        self.reasons[re.sub(r" \(.*", "", reason, flags=re.DOTALL)] += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(f"{source_path}: {reason}")

    def refuse_too_many(self, where: str, table: Path | None = None) -> None:
        """Fail if there are too many.

        Raises:
            ValueError: with the counts per reason, the first examples and what to do.
        """
        if not self.too_many:
            return
        reasons = ", ".join(f"{count} x {reason}" for reason, count in self.reasons.most_common())
        listed = f" All of them are listed in {table}." if table else ""
        raise ValueError(
            f"{where} has {self.count} bad image{'' if self.count == 1 else 's'}; max_bad_fraction = {self.max_fraction:g} allows "
            f"{int(self.max_fraction * self.total)} of the data set's {self.total}. Reasons: {reasons}. "
            f"First ones: {'; '.join(self.examples)}.{listed} Mend or remove these files, or raise max_bad_fraction "
            "(shards.datasets.NAME.max_bad_fraction)."
        )


def summarise_shards(
    settings: DatasetSettings, tars: Sequence[Path], output: Path, *, manifest: Path | None = None
) -> dict[str, Any]:
    """Check a data set's shards together and write their summary; later stages wait for it.

    The summary is written as CSV too, and last as Parquet. Beside it, `bad_images.csv` lists every unusable image with its reason;
    if they are too many, `too_many_bad_images.csv` does.

    Args:
        settings: `max_bad_fraction` is used.
        tars: All shards.
        output: The summary to write.
        manifest: If given, every shard must have been made from it.

    Returns:
        ok, bad, reasons, megabytes and the summary's path.

    Raises:
        ValueError: if a shard is missing, incomplete or made from another manifest, or too many images are bad.
    """
    rows: list[dict[str, Any]] = []
    bad_rows: list[dict[str, Any]] = []
    manifest_hash = file_sha256(manifest) if manifest is not None else None
    for tar in tars:
        row, bad_here = _check_shard(tar, manifest_hash)
        rows.append(row)
        bad_rows.extend(bad_here)
    total = sum(row["ok"] + row["bad"] for row in rows)
    if manifest is not None and total != image_count(manifest):
        raise ValueError(
            f"the shards hold {total} rows, {manifest} has {image_count(manifest)} images; {how_to_remake(manifest)}"
        )
    counts = BadImages(settings.max_bad_fraction, total)
    for bad in bad_rows:
        counts.add(bad["source_path"], bad["reason"])
    refused = output.with_name(REFUSED_IMAGES)
    with explain_write_errors(output):
        if counts.too_many:
            write_text(refused, _as_csv(bad_rows))
            counts.refuse_too_many("the data set", refused)
        refused.unlink(missing_ok=True)
        write_text(output.with_name(BAD_IMAGES), _as_csv(bad_rows))
        write_csv(output.with_suffix(".csv"), pa.Table.from_pylist(rows, schema=SUMMARY_SCHEMA))
        write_table(output, rows, SUMMARY_SCHEMA, settings_digest=settings.digest(), extra={"images": total})
    return {
        "ok": total - counts.count,
        "bad": counts.count,
        "reasons": dict(counts.reasons),
        "tar_megabytes": round(sum(row["tar_bytes"] for row in rows) / 1e6, 3),
        "summary": str(output),
    }


def _check_shard(tar: Path, manifest_hash: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary row and bad rows of one shard, from its index; the tar is measured, and read if it was changed after the index was written."""
    index = read_index(tar, ["key", "source_path", "status", "reason"])
    metadata = table_metadata(index_path(tar))
    if manifest_hash is not None and metadata.get("inputs", {}).get("manifest") != manifest_hash:
        raise ValueError(f"{tar} was made from another manifest; {how_to_remake(index_path(tar))}")
    bad = index.filter(pc.equal(index["status"], BAD)).to_pylist()
    num_ok = pc.sum(pc.equal(index["status"], OK)).as_py() or 0
    row = {
        "shard": tar.stem,
        "ok": num_ok,
        "bad": len(bad),
        "tar_bytes": metadata["tar_bytes"],
        "tar_sha256": metadata["tar_sha256"],
    }
    return row, bad


def _as_csv(bad_rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["key", "source_path", "reason"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(bad_rows, key=lambda row: str(row["source_path"])))
    return text.getvalue()
