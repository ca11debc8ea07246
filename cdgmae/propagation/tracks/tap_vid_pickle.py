"""TAP-Vid's published pickle, read without executing anything in it, as frames and points in the layout that evaluation reads.

A pickle names functions that are called while it is read. Here every name stands for one of three recorders of our own (array, type, bytes),
any other name is refused, and arrays are made from the recorded bytes after their size was checked.

Shapes: T frames, P points.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from cdgmae.runtime.progress import ProgressMeter
from cdgmae.storage.files.atomic import explain_write_errors, write_bytes

DTYPES = {name: np.dtype(name) for name in ("u1", "b1", "f4", "f8", "i4", "i8")}
CLIP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class _Type:
    """Records what a NumPy type is: its code, e.g. `f4`, and its byte order."""

    def __init__(self, code: str, *_flags: object) -> None:
        if code not in DTYPES:
            raise pickle.UnpicklingError(f"arrays of type {code!r} are not read")
        self.dtype = DTYPES[code]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|", "="):
            raise pickle.UnpicklingError(f"byte order {state[1]!r} is not read")


class _Array:
    """Records a NumPy array: its state, or (protocol 5) the arguments from which it is made."""

    def __init__(self, *arguments: Any) -> None:
        self.values: NDArray[Any] | None = None
        if len(arguments) >= 4:
            data, kind, shape, order = arguments[:4]
            self._set(bytes(data) if isinstance(data, bytes | bytearray) else data, kind, shape, order)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, data = state
        self._set(data, kind, shape, "F" if by_columns else "C")

    def _set(self, data: Any, kind: _Type, shape: tuple[int, ...], order: Any) -> None:
        expected = math.prod(shape) * kind.dtype.itemsize
        if not isinstance(data, bytes) or len(data) != expected:
            raise pickle.UnpicklingError(f"an array of shape {shape} does not hold {expected} bytes")
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order=order)


class _Prototype:
    """Stands for the class `numpy.ndarray`, which array recorders are told and ignore."""


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes as Python 2's protocols write them."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r} are not read")
    return text.encode("latin-1")


RECORDERS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _Array,
    ("numpy", "ndarray"): _Prototype,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
}
"""Name in the pickle -> what takes its place."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain containers and arrays; see the module."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """A recorder, or a refusal."""
        if (module_name, global_name) not in RECORDERS:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, and only NumPy arrays are read")
        return RECORDERS[module_name, global_name]


def read_pickled_videos(path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Name -> `video` (T, H, W, 3) uint8, `points` (P, T, 2) x and y in 0..1, `occluded` (P, T) of every video.

    Raises:
        ValueError: if the file holds anything else, or asks for anything but NumPy arrays.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except (
        OSError,
        pickle.UnpicklingError,
        EOFError,
        MemoryError,
        AttributeError,
        TypeError,
        ValueError,
        LookupError,
        OverflowError,
    ) as error:
        raise ValueError(f"{path}: cannot be read as TAP-Vid's pickle ({type(error).__name__}: {error})") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: holds {type(content).__name__}, expected TAP-Vid-DAVIS: video name -> video, points, occluded")
    return {_clip_name(path, name): _checked_video(f"{path}: video {name!r}", video) for name, video in content.items()}


def _clip_name(path: Path, name: object) -> str:
    if not isinstance(name, str) or CLIP_NAME.fullmatch(name) is None:
        raise ValueError(f"{path}: video name {name!r} cannot be the name of a folder")
    return name


def _checked_video(where: str, content: object) -> dict[str, NDArray[Any]]:
    arrays = (
        {key: value.values for key, value in content.items() if isinstance(value, _Array)} if isinstance(content, dict) else {}
    )
    if missing := [key for key in ("video", "points", "occluded") if arrays.get(key) is None]:
        raise ValueError(f"{where}: no array {', '.join(missing)}")
    video, points, occluded = (np.asarray(arrays[key]) for key in ("video", "points", "occluded"))
    shape = points.shape[:2]
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or not all(video.shape):
        raise ValueError(f"{where}: video is {video.dtype} {video.shape}, expected uint8 (frames, height, width, 3)")
    if points.shape != (*shape, 2) or occluded.shape != shape or shape[1] != len(video) or not np.isfinite(points).all():
        raise ValueError(
            f"{where}: points {points.shape} and occluded {occluded.shape} do not fit {len(video)} frames, or are not finite"
        )
    return {"video": video, "points": points.astype(np.float64), "occluded": occluded.astype(bool)}


def prepare_tap_vid(path: Path, output: Path) -> dict[str, Any]:
    """Write frames/VIDEO/00000.png ... and points/VIDEO.parquet of every video, its points last; what is there is written again.

    Args:
        path: TAP-Vid-DAVIS's pickle; never executed.
        output: New folder, then the `root` of a set of kind `tap_vid`.

    Returns:
        `videos`, `points`, `frames` and `output`.

    Raises:
        ValueError: if the pickle is not TAP-Vid's, or files cannot be written.
    """
    videos = read_pickled_videos(path)
    with explain_write_errors(output), ProgressMeter("prepare tap_vid", len(videos), unit="videos") as meter:
        for name, arrays in videos.items():
            for number, frame_HW3 in enumerate(arrays["video"]):
                buffer = io.BytesIO()
                Image.fromarray(np.ascontiguousarray(frame_HW3)).save(buffer, format="PNG")
                write_bytes(output / f"frames/{name}/{number:05d}.png", buffer.getvalue())
            write_bytes(output / f"points/{name}.parquet", _points_file(arrays))
            meter.advance(note=name)
    counts = {
        key: sum(len(arrays[array]) for arrays in videos.values()) for key, array in (("points", "points"), ("frames", "video"))
    }
    return {"videos": len(videos), **counts, "output": str(output)}


def _points_file(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A row per point and frame, positions in pixels of the frames."""
    _, height, width, _ = arrays["video"].shape
    num_points, num_frames = arrays["occluded"].shape
    points, frames = np.divmod(np.arange(num_points * num_frames), num_frames)
    x, y = np.moveaxis(arrays["points"] * np.array([width, height]), 2, 0)
    columns = {
        "frame": frames.astype(np.int32),
        "point": pa.array([str(point) for point in points]),
        "x": x.ravel(),
        "y": y.ravel(),
        "visible": ~arrays["occluded"].ravel(),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()
