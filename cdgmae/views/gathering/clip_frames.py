"""View source `video`: later frames of the clip that a bag's real image was drawn from (SiamMAE; paper, Table 1).

The shards stage packs one image per clip (`shards.datasets.NAME.layout: clips`): a frame drawn at random, named `{clip}!{frame}` in
its row. A job of this source reads the clips of one such shard again and adds later frames as views 1..M in temporal order. So a
data set of clips is a data set like any other: every other source can fill its bags too.

Two users: `frame_gap` draws M different distances (SiamMAE's 4..47), for scoring and for `cross_view` runs; `frame_step: 1` takes
consecutive frames, from which pretext `video_pairs` draws its own pairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cdgmae.runtime.progress import ProgressMeter
from cdgmae.runtime.seeds import integer_seed
from cdgmae.storage.files.paths import text_to_path
from cdgmae.storage.image_shards import BAD, OK, ImageRow, ImageShard, ImageShardWriter, index_path
from cdgmae.storage.media.clips import Frame, frame_name, open_clip, split_frame_name
from cdgmae.storage.media.images import ImageError, encode_jpeg, fit_image
from cdgmae.storage.tables import file_sha256
from cdgmae.views.gathering.copying import check_bad_fraction
from cdgmae.views.sources.video import ClipViews, FrameSettings

SEED_STREAM = "views/video"


class _View(NamedTuple):
    row: ImageRow
    data: bytes


def read_clips(settings: ClipViews, seed: int, shard_tar: Path, output_tar: Path, *, threads: int = 1) -> dict[str, Any]:
    """Fill the bags of one shard with later frames of their clips.

    A short clip gives as many views as it has frames; a clip without any later frame, and a frame that cannot be decoded, is a row
    with its reason.

    Args:
        settings: Which frames, where the clips lie, and how the data set's images were prepared.
        seed: Root of every random draw.
        shard_tar: Image shard of layout `clips`.
        output_tar: View shard to write; its index goes beside it.
        threads: Clips read at the same time.

    Returns:
        The job's result: output, clips, views, bad, short_bags (bags of fewer than M views).

    Raises:
        ValueError: if the shard was not made of clips, PyAV is missing, or more than `max_bad_fraction` of the views are bad.
    """
    rows = sorted(ImageShard(shard_tar).rows(OK), key=lambda row: row.key)
    clips = [(row, *_origin(row, shard_tar)) for row in rows]
    inputs = {str(index_path(shard_tar)): file_sha256(index_path(shard_tar))}
    views = short = 0
    bad: list[str] = []
    with ImageShardWriter(output_tar) as writer, ProgressMeter(f"clips {output_tar.stem}", len(clips), unit="clips") as meter:
        for bag in _read_all(clips, settings, seed, threads):
            for view in bag:
                if view.row.status == BAD:
                    writer.add_failure(view.row)
                    bad.append(f"{view.row.key}.{view.row.view_index}: {view.row.reason}")
                else:
                    writer.add_image(view.row, view.data)
            good = sum(view.row.status == OK for view in bag)
            views, short = views + good, short + (good < settings.num_views)
            meter.advance()
        check_bad_fraction(
            bad, views + len(bad), settings.max_bad_fraction,
            "Mend or remove these clips, widen frame_gap, or raise views.sources.NAME.max_bad_fraction.",
        )  # fmt: skip
        writer.commit(settings_digest=settings.digest(), inputs=inputs, extra={"short_bags": short})
    return {"output": str(output_tar), "clips": len(clips), "views": views, "bad": len(bad), "short_bags": short}


def later_frames(settings: FrameSettings, bag_seed: int, first: int, num_frames: int) -> list[int]:
    """Numbers of the frames that join frame `first` of a clip of `num_frames` frames, in temporal order; at most M.

    With `frame_gap: [a, b]` the distances are drawn without repetition from those in a..b that the clip has, seeded by `bag_seed`.
    """
    last = num_frames - 1
    if settings.frame_step is not None:
        return list(range(first + settings.frame_step, last + 1, settings.frame_step))[: settings.num_views]
    low, high = settings.gap
    distances = range(low, min(high, last - first) + 1)
    drawn = np.random.default_rng(bag_seed).permutation(len(distances))[: settings.num_views]
    return sorted(first + distances[int(index)] for index in drawn)


def _origin(row: ImageRow, shard_tar: Path) -> tuple[str, int]:
    """Clip and frame that a real image was drawn from."""
    try:
        return split_frame_name(row.source_path or "")
    except ValueError as error:
        raise ValueError(
            f"{shard_tar}: {row.key} was not drawn from a clip ({error}); kind video needs a data set of layout `clips`"
        ) from None


def _read_all(clips: Sequence[tuple[ImageRow, str, int]], settings: ClipViews, seed: int, threads: int) -> Iterator[list[_View]]:
    """The views of every clip in order; a few clips per thread are in memory at a time."""
    waiting: deque[Future[list[_View]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clips")
    try:
        for real, clip, first in clips:
            waiting.append(pool.submit(_read_clip, real, clip, first, settings, seed))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_clip(real: ImageRow, clip: str, first: int, settings: ClipViews, seed: int) -> list[_View]:
    """The views of one bag, or one bad view that says why there are none."""
    bag_seed = integer_seed(seed, SEED_STREAM, real.key)
    columns: dict[str, Any] = {"class_name": real.class_name, "sampler": "video"}
    columns |= {"seed": bag_seed} if settings.frame_step is None else {}
    try:
        opened = open_clip(Path(settings.path) / text_to_path(clip), settings.max_pixels)
        wanted = later_frames(settings, bag_seed, first, opened.num_frames)
        if not wanted:
            raise ImageError(f"no frame at the wanted distance (the real image is frame {first} of {opened.num_frames})")
        return [
            _as_view(ImageRow(real.key, index, source_path=frame_name(clip, frame.number), **columns), frame, settings)
            for index, frame in enumerate(opened.read(wanted), start=1)
        ]
    except (ImageError, OSError) as error:
        return [_View(ImageRow(real.key, 1, status=BAD, reason=str(error), source_path=clip, **columns), b"")]


def _as_view(row: ImageRow, frame: Frame, settings: ClipViews) -> _View:
    """One frame, prepared like the data set's images, so that all frames of a bag have one size."""
    if frame.image is None:
        return _View(replace(row, status=BAD, reason=frame.reason), b"")
    image = fit_image(frame.image, settings.resize, settings.image_size)
    row = replace(row, extension="jpg", width=image.width, height=image.height)
    return _View(row, encode_jpeg(image, settings.jpeg_quality))
