"""Real numeric arrays of MATLAB 5 files, bounded: a small file may claim gigabytes, and a damaged one must end in a sentence.

SciPy's reader allocates what a file claims and dies by a signal on some damaged ones. JHMDB's joint files need a small part of the format:
numeric arrays at the top level, compressed or not.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAX_BYTES = 64 << 20
"""Largest file, and largest array once decompressed."""

HEADER_BYTES = 128
LITTLE_ENDIAN = b"IM"

NUMERIC = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Data types of elements -> NumPy's, without byte order."""

MATRIX, COMPRESSED = 14, 15
NUMERIC_CLASSES = range(6, 16)
"""Array classes double, single and integers; cells, structures, text and sparse arrays are others."""


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.float64] | None]:
    """The arrays of a MATLAB file by name; None for those that are no real numeric arrays.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no whole MATLAB 5 file, or larger than `MAX_BYTES` once decompressed.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes, more than {MAX_BYTES}")
    data = path.read_bytes()
    order = "<" if data[126:128] == LITTLE_ENDIAN else ">"
    if len(data) < HEADER_BYTES or int.from_bytes(data[124:126], "little" if order == "<" else "big") != 0x0100:
        raise ValueError("no MATLAB 5 file (save it with -v7 or earlier)")
    arrays: dict[str, npt.NDArray[np.float64] | None] = {}
    for kind, content in _elements(data[HEADER_BYTES:], order):
        if kind == COMPRESSED:
            [(kind, content)] = list(_elements(_decompressed(content), order))[:1] or [(0, b"")]
        if kind == MATRIX:
            name, array = _array(content, order)
            arrays[name] = array
    return arrays


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the elements that follow each other; each is padded to 8 bytes but for compressed ones."""
    place = 0
    while place + 8 <= len(data):
        kind, length = (int(word) for word in np.frombuffer(data, f"{order}u4", 2, place))
        start = place + 8
        if kind >> 16:  # up to 4 bytes lie in the tag itself
            kind, length, start = kind & 0xFFFF, kind >> 16, place + 4
        if start + length > len(data):
            raise ValueError(f"an element of {length} bytes ends beyond the file")
        yield kind, data[start : start + length]
        place = place + 8 if start == place + 4 else start + length + (-length % 8 if kind != COMPRESSED else 0)


def _decompressed(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"damaged compressed data ({error})") from None
    if stream.unconsumed_tail or not stream.eof:
        raise ValueError(f"compressed data that is cut short or larger than {MAX_BYTES} bytes")
    return content


def _array(content: bytes, order: str) -> tuple[str, npt.NDArray[np.float64] | None]:
    """Name and values of a matrix element: flags, dimensions, name, real part and, if there is one, imaginary part."""
    parts = list(_elements(content, order))
    if len(parts) < 3 or len(parts[0][1]) < 4:
        raise ValueError("a damaged array")
    dimensions = tuple(int(size) for size in np.frombuffer(parts[1][1], f"{order}i4"))
    name = parts[2][1].decode("ascii", "replace")
    array_class = int(np.frombuffer(parts[0][1], f"{order}u4", 1)[0]) & 0xFF
    if array_class not in NUMERIC_CLASSES or len(parts) != 4 or parts[3][0] not in NUMERIC:
        return name, None
    kind = np.dtype(order + NUMERIC[parts[3][0]])
    values = np.frombuffer(parts[3][1][: len(parts[3][1]) // kind.itemsize * kind.itemsize], kind).astype(np.float64)
    if min(dimensions, default=-1) < 0 or values.size != int(np.prod(dimensions, dtype=object)):
        raise ValueError(f"array {name} of size {dimensions} holds {values.size} values")
    return name, values.reshape(dimensions, order="F")
