"""Paths as text: file names may hold bytes outside UTF-8, Parquet columns may not."""

from __future__ import annotations

_ESCAPED_BYTES = {0xDC80 + byte: 0xF780 + byte for byte in range(128)}
_RESTORED_BYTES = {escaped: original for original, escaped in _ESCAPED_BYTES.items()}


def path_to_text(path: str) -> str:
    """A path that may hold bytes outside UTF-8 as text that Parquet can store; `text_to_path` takes it back."""
    return path.translate(_ESCAPED_BYTES)


def text_to_path(text: str) -> str:
    """The path behind `path_to_text`."""
    return text if text.isascii() else text.translate(_RESTORED_BYTES)
