"""Clips with points: the layout that the kinds `tap_vid` and `key_points` share, checked before a job starts.

Shapes: P points of a clip, T frames.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cdgmae.propagation.layouts.image_files import FRAME_ENDINGS, common_size, list_images, read_headers
from cdgmae.propagation.layouts.labelled_clip import LabelledClip, check_root, raise_problems

LAYOUT = (
    "frames/CLIP/00000.png (or .jpg) ... and points/CLIP.json (or .parquet): a list of "
    '{"frame": 0, "point": "left paw", "x": 10.5, "y": 20, "visible": true}, optionally with "size"'
)
POINT_COLUMNS = ("frame", "point", "x", "y", "visible")
MAX_ROWS, MAX_TEXT_BYTES = 2_000_000, 1000
ENDINGS = (".json", ".parquet")


@dataclass(frozen=True, slots=True)
class PointTracks:
    """Where the points of a clip truly are.

    Attributes:
        names: Of the P points.
        positions_PT2: x and y in pixels of the frames; not a number where a point is not annotated.
        visible_PT: Whether the point is annotated and not occluded.
        sizes_T: The `size` of each frame in pixels; not a number where none is given.
    """

    names: tuple[str, ...]
    positions_PT2: NDArray[np.float64]
    visible_PT: NDArray[np.bool_]
    sizes_T: NDArray[np.float64]

    @property
    def annotated_PT(self) -> NDArray[np.bool_]:
        """Whether the point is annotated, visible or occluded."""
        return ~np.isnan(self.positions_PT2[..., 0])

    @property
    def queries_P(self) -> NDArray[np.int64]:
        """The frame in which each point is given: its first visible one."""
        queries_P: NDArray[np.int64] = self.visible_PT.argmax(axis=1)
        return queries_P

    @property
    def judged_PT(self) -> NDArray[np.bool_]:
        """Annotated frames after the one in which the point is given."""
        return self.annotated_PT & (np.arange(self.visible_PT.shape[1]) > self.queries_P[:, None])


def read_point_clips(root: Path, title: str) -> list[LabelledClip]:
    """Every clip of `points/` with its frames, by name.

    Args:
        root: Folder in `LAYOUT`.
        title: The data set's name, for messages.

    Raises:
        LayoutError: missing frames, frames of different sizes, or points that cannot be read; lists all of it.
    """
    check_root(root, "points", title)
    problems: list[str] = []
    files: dict[str, Path] = {}
    for path in sorted(path for path in (root / "points").glob("*") if path.suffix in ENDINGS):
        if path.stem in files:
            problems.append(f"{path}: a second file for clip {path.stem} beside {files[path.stem].name}")
        files[path.stem] = path
    if not files:
        problems.append(f"{root / 'points'}: holds no {'/'.join(ENDINGS)} files")
    clips = [clip for name, path in files.items() if (clip := _read_clip(root, name, path, problems)) is not None]
    raise_problems(problems, root, title, LAYOUT)
    return clips


def _read_clip(root: Path, name: str, path: Path, problems: list[str]) -> LabelledClip | None:
    frames = list_images(root / "frames" / name, FRAME_ENDINGS, problems)
    size = common_size(read_headers(frames.values(), problems), problems)
    if size is None:
        return None
    clip = LabelledClip(name, tuple(frames.values()), (path,), size)
    try:
        read_tracks(clip)
    except ValueError as error:
        problems.append(str(error))
        return None
    return clip


def read_tracks(clip: LabelledClip) -> PointTracks:
    """The points of a clip in the order of their first rows, without those that are never visible.

    Raises:
        ValueError: if the file is no list of points, a row contradicts another one or the clip, or no point is ever followed by a frame.
    """
    path, num_frames = clip.labels[0], len(clip.frames)
    rows = list(_checked_rows(path, _read_rows(path), num_frames))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for _, name, *_ in rows))}
    positions = np.full((len(numbers), num_frames, 2), np.nan)
    visible, sizes = np.zeros(positions.shape[:2], dtype=bool), np.full(num_frames, np.nan)
    for frame, name, x, y, seen, size in rows:
        place = (numbers[name], frame)
        if not math.isnan(positions[place][0]):
            raise ValueError(f"{path}: point {name!r} stands twice in frame {frame}")
        positions[place], visible[place] = (x, y), seen
        sizes[frame] = size if math.isnan(sizes[frame]) else sizes[frame]
    shown = np.flatnonzero(visible.any(axis=1))
    names = tuple(list(numbers)[number] for number in shown)
    tracks = PointTracks(names, positions[shown], visible[shown], sizes)
    if not tracks.judged_PT.any():
        raise ValueError(f"{path}: no point is visible in a frame and annotated in a later one, so there is nothing to measure")
    return tracks


def _read_rows(path: Path) -> list[Any]:
    try:
        if path.suffix == ".parquet":
            return _bounded_rows(path)
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds {type(rows).__name__}, expected a list of points")
    return rows


def _bounded_rows(path: Path) -> list[Any]:
    """The rows of a Parquet file, which in a few bytes can claim gigabytes of rows or of text: text is looked at before it is repeated."""
    columns = [name for name in (*POINT_COLUMNS, "size") if name in pq.read_schema(path).names]
    with pq.ParquetFile(path, read_dictionary=columns) as file:
        if file.metadata.num_rows > MAX_ROWS:
            raise ValueError(f"{file.metadata.num_rows} rows, at most {MAX_ROWS} are read")
        table = file.read(columns=columns)
    for column in table.columns:
        for chunk in column.chunks:
            text = chunk.dictionary if pa.types.is_dictionary(chunk.type) else None
            if text is not None and (pc.max(pc.binary_length(text)).as_py() or 0) > MAX_TEXT_BYTES:
                raise ValueError(f"text of more than {MAX_TEXT_BYTES} bytes")
    return list(table.to_pylist())


def _checked_rows(path: Path, rows: list[Any], num_frames: int) -> Iterator[tuple[int, str, float, float, bool, float]]:
    """(frame, point, x, y, visible, size) of every row."""
    for number, row in enumerate(rows):
        where = f"{path}: row {number}"
        if not isinstance(row, Mapping) or (absent := [name for name in POINT_COLUMNS if row.get(name) is None]):
            raise ValueError(f"{where} lacks {', '.join(absent) if isinstance(row, Mapping) else 'keys'}; needed: {LAYOUT}")
        frame, visible = row["frame"], row["visible"]
        if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < num_frames:
            raise ValueError(f"{where}: frame = {frame!r}, but the clip has frames 0 to {num_frames - 1}")
        if not isinstance(visible, bool):
            raise ValueError(f"{where}: visible = {visible!r}, expected true or false")
        values = [row["x"], row["y"], row.get("size")]
        try:
            x, y, size = (math.nan if value is None else float(value) for value in values)
        except (TypeError, ValueError):
            raise ValueError(f"{where}: x, y, size = {values}, expected numbers in pixels") from None
        if not (math.isfinite(x) and math.isfinite(y)) or size <= 0 or math.isinf(size):
            raise ValueError(f"{where}: x, y, size = {values}, expected finite positions and a positive size in pixels")
        yield frame, str(row["point"]), x, y, visible, size
