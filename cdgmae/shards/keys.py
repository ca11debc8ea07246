"""Keys: a name for every image that is safe inside a WebDataset tar and distinct within the data set."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MAX_KEY_BYTES = 80
"""Longest key; a member name `{key}.{view_index}.{extension}` must stay below the 100 bytes of a plain tar header."""

_ALREADY_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII)
_UNSAFE_CHARACTER = re.compile(r"[^\w-]")


def safe_key(stem: str) -> str:
    """A file stem as a key: letters, digits, `_` and `-` only, at most 80 bytes of UTF-8.

    Every other character (dot, slash, space, ...) becomes `_`. Dots would end the key in WebDataset. Longer stems are cut and get a
    hash of the whole stem, so that they stay distinct. `n01440764_10026` stays as it is.
    """
    if _ALREADY_SAFE.fullmatch(stem):
        return stem
    text = _UNSAFE_CHARACTER.sub("_", unicodedata.normalize("NFC", stem))
    if not text or text.startswith("-"):
        text = "_" + text
    encoded = text.encode()
    if len(encoded) <= MAX_KEY_BYTES:
        return text
    suffix = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{encoded[: MAX_KEY_BYTES - 9].decode(errors='ignore')}-{suffix}"


def distinct_keys(keys: pa.Array, class_names: pa.Array) -> pa.Array:
    """Give images that share a key different ones; all others keep theirs.

    A shared key becomes `class-key`; what is still shared (one class, or none) is numbered in listing order: `key`, `key-2`, ...
    The result depends on the listing alone.

    Args:
        keys: String array of safe keys in listing order.
        class_names: Class of each image or null.
    """
    renamed = _is_repeated(keys)
    if not renamed.any():
        return keys

    def with_class(row: int) -> str:
        name, key = class_names[row].as_py(), keys[row].as_py()
        return safe_key(f"{name}-{key}") if name else key

    longer = _replace(keys, renamed, with_class)
    again = _is_repeated(longer) & renamed  # images that never shared their key keep it
    if not again.any():
        return longer
    taken: set[str] = set(longer.filter(pa.array(~again)).to_pylist())
    counters: dict[str, int] = {}

    def numbered(row: int) -> str:
        base: str = longer[row].as_py()
        candidate = base
        while candidate in taken:
            counters[base] = counters.get(base, 1) + 1
            candidate = f"{base}-{counters[base]}"
        taken.add(candidate)
        return candidate

    return _replace(longer, again, numbered)


def _is_repeated(keys: pa.Array) -> NDArray[np.bool_]:
    counts = keys.value_counts()
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    mask: NDArray[np.bool_] = pc.is_in(keys, value_set=repeated).to_numpy(zero_copy_only=False)
    return mask


def _replace(keys: pa.Array, mask: NDArray[np.bool_], new_key: Callable[[int], str]) -> pa.Array:
    values = pa.array([new_key(int(row)) for row in np.flatnonzero(mask)], type=keys.type)
    return pc.replace_with_mask(keys, pa.array(mask), values)
