"""Writing shards: one shard from its manifest rows, or a whole data set in one go."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdgmae import names
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.listing import list_images
from cdgmae.shards.manifest import IMAGES_PER_SHARD, image_count, manifest_seed, shard_rows, write_left_out, write_listing
from cdgmae.shards.reading import PreparedImage, prepare_frame, prepare_image
from cdgmae.shards.shard_summary import SUMMARY_NAME, BadImages, summarise_shards
from cdgmae.storage.files.atomic import explain_write_errors
from cdgmae.storage.files.publishing import process_metadata
from cdgmae.storage.files.records import find_record, record_path, write_record
from cdgmae.storage.files.tree_listing import LeftOut
from cdgmae.storage.image_shards import BAD, ImageRow, ImageShardWriter, index_path
from cdgmae.storage.media.images import DEEP_NOTE, ImageError
from cdgmae.storage.tables import file_sha256, read_table, table_metadata
from cdgmae.storage.verify import verify_file

logger = logging.getLogger("cdgmae")

MAX_THREADS = 16
ENOUGH_EXAMPLES = 20
"""A job that must fail goes on until it has seen this many bad images, so that its message shows what is wrong."""


def packing_digest(settings: DatasetSettings) -> str:
    """Digest of the settings that decide a shard's bytes, given its manifest."""
    used = ["resize", "max_pixels"] + (["image_size", "jpeg_quality"] if settings.resize != "none" else [])
    if settings.layout == "clips":
        used = ["resize", "max_pixels", "image_size", "jpeg_quality", "frames_after"]
    text = json.dumps({name: getattr(settings, name) for name in used}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_shard(
    settings: DatasetSettings, manifest: Path, shard_index: int, output_tar: Path,
    *, threads: int | None = None, meter: ProgressMeter | None = None, stop_early: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Pack the images of one shard; unusable ones become index rows with a reason.

    Args:
        settings: The data set.
        manifest: Manifest of the whole data set.
        shard_index: Which of its shards, from 0.
        output_tar: The tar to write; its index goes beside it.
        threads: Images decoded at the same time; the cores this process may use, at most 16, if None.
        meter: Counts finished images; a meter of this shard alone if None.
        stop_early: Fail as soon as this shard alone exceeds what the whole data set may have; the workflow leaves that judgement to
            `summarise_shards`, so that raising the limit rewrites no shard.

    Returns:
        shard, ok, bad, megabytes and the tar's path.

    Raises:
        ValueError: if `stop_early` and the bad images of this shard alone exceed the data set's `max_bad_fraction`, the manifest does not fit the
            settings, or the output cannot be written. Nothing is left under the final names then.
    """
    rows = shard_rows(manifest, settings, shard_index)
    bad, scaled = BadImages(settings.max_bad_fraction, image_count(manifest)), 0
    inputs = {"manifest": file_sha256(manifest)}
    with ExitStack() as stack:
        stack.enter_context(explain_write_errors(output_tar))
        counter = meter or stack.enter_context(ProgressMeter(f"shard {shard_index}", len(rows), unit="images"))
        writer = stack.enter_context(ImageShardWriter(output_tar))
        for row, outcome in _prepare_all(rows, settings, manifest_seed(manifest), threads or default_threads()):
            base = ImageRow(row["key"], view_index=0, class_name=row["class_name"], source_path=row["source_path"])
            if isinstance(outcome, PreparedImage):
                base = replace(base, source_path=outcome.source_path, extension=outcome.extension, reason=outcome.note)
                scaled += outcome.note is not None
                writer.add_image(replace(base, width=outcome.width, height=outcome.height), outcome.data)
            else:
                writer.add_failure(replace(base, status=BAD, reason=outcome))
                bad.add(row["source_path"], outcome)
                if stop_early and bad.too_many and bad.count >= ENOUGH_EXAMPLES:
                    break
            counter.advance()
        if scaled:
            logger.warning("%d image(s) of shard %d have %s; their rows in the index say so", scaled, shard_index, DEEP_NOTE)
        if stop_early:
            bad.refuse_too_many(f"shard {shard_index} alone")
        writer.commit(settings_digest=packing_digest(settings), inputs=inputs)
    megabytes = round(output_tar.stat().st_size / 1e6, 3)
    counts = {"ok": len(rows) - bad.count, "bad": bad.count, "megabytes": megabytes}
    return {"shard": shard_index, **counts, "tar": str(output_tar)}


def default_threads() -> int:
    """Cores this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MAX_THREADS)


def _prepare_all(
    rows: Sequence[Mapping[str, Any]], settings: DatasetSettings, seed: int, threads: int
) -> Iterator[tuple[Mapping[str, Any], PreparedImage | str]]:
    """(row, image or reason) in row order; a few images per thread are in memory at a time."""

    def prepare(row: Mapping[str, Any]) -> PreparedImage | str:
        try:
            return prepare_frame(row, settings, seed) if settings.layout == "clips" else prepare_image(row, settings)
        except ImageError as error:
            return str(error)

    waiting: deque[tuple[Mapping[str, Any], Future[PreparedImage | str]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for row in rows:
            waiting.append((row, pool.submit(prepare, row)))
            if len(waiting) > 3 * threads:
                oldest, future = waiting.popleft()
                yield oldest, future.result()
        while waiting:
            oldest, future = waiting.popleft()
            yield oldest, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def write_dataset(
    settings: DatasetSettings, seed: int, output: Path, *, num_shards: int | None = None, threads: int | None = None
) -> dict[str, Any]:
    """Manifest, all shards and summary of a data set in one folder; shards that are already there and whole are kept.

    Args:
        settings: The data set; its `num_shards` is replaced by the argument.
        seed: Root seed of the shuffle.
        output: Folder for manifest.parquet, 00000.tar, 00000.parquet, ..., summary.parquet.
        num_shards: Number of shards; one per 10,000 images if None.
        threads: See `write_shard`.

    Raises:
        ValueError: as `write_manifest`, `write_shard` and `summarise_shards`; also if the folder holds shards of another division.
    """
    if settings.layout in ("class_tars", "webdataset") and names.lies_within(
        str(output.resolve()), str(Path(settings.path).resolve())
    ):
        raise ValueError(
            f"output folder {output} lies inside the input {settings.path}, whose tars are the images; choose another"
        )
    left_out: list[LeftOut] = []
    listing = list_images(settings, left_out)
    num_images = listing.num_rows
    num_shards = num_shards or -(-num_images // IMAGES_PER_SHARD)
    settings = settings.model_copy(update={"num_shards": num_shards})
    tars = [output / f"{name}.tar" for name in names.shard_names(num_shards)]
    _refuse_other_shards(output, tars)
    manifest = output / names.MANIFEST
    listed = write_listing(listing, settings, seed, manifest, left_out)
    write_left_out(manifest)
    current = {tar for tar in tars if is_current(tar, settings, manifest)}
    sizes = Counter(read_table(manifest, ["shard"])["shard"].to_pylist())
    already = sum(sizes[index] for index, tar in enumerate(tars) if tar in current)
    with ProgressMeter("pack images", num_images, done=already, unit="images") as meter:
        for index, tar in enumerate(tars):
            if tar not in current:
                _write_recorded(settings, manifest, index, tar, threads, meter)
    summary = summarise_shards(settings, tars, output / SUMMARY_NAME, manifest=manifest)
    return {**listed, **summary, "shards_kept": len(current), "output": str(output)}


def _write_recorded(
    settings: DatasetSettings, manifest: Path, index: int, tar: Path, threads: int | None, meter: ProgressMeter
) -> None:
    """A shard with a record of its own: the run that goes on after an interruption holds it against that. Whoever calls holds the folder."""
    with explain_write_errors(tar):
        record_path(tar).unlink(missing_ok=True)
        write_shard(settings, manifest, index, tar, threads=threads, meter=meter)
        write_record(record_path(tar), [tar, index_path(tar)], process_metadata([manifest]))


def is_current(tar: Path, settings: DatasetSettings, manifest: Path) -> bool:
    """Whether a shard is whole, which all its bytes are read for, and was made from this manifest with these settings."""
    try:
        metadata = table_metadata(index_path(tar))
        find_record(tar)  # raises if it is damaged: it is made again with the shard
        return (
            metadata.get("settings") == packing_digest(settings)
            and metadata.get("inputs", {}).get("manifest") == file_sha256(manifest)
            and verify_file(tar).ok
        )
    except (ValueError, OSError):
        return False


def _refuse_other_shards(output: Path, tars: Iterable[Path]) -> None:
    others = sorted(path.name for path in set(output.glob("[0-9]" * 5 + ".tar")) - set(tars))
    if others:
        raise ValueError(
            f"{output} holds shards beyond the {len(list(tars))} to be written ({', '.join(others[:3])}{', ...' if others[3:] else ''}): "
            "it was made with another number of shards. Delete that folder or choose another --output."
        )
