"""Random reads from many shards through few file descriptors."""

from __future__ import annotations

import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdgmae.names import how_to_make, how_to_remake

MAX_OPEN = 128
"""Descriptors a reader keeps; thousands of shards stay far below the usual limit of 1024 per process."""


def most_open() -> int:
    """Descriptors that a reader keeps here: `MAX_OPEN`, or a quarter of this process's limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_OPEN if limit == resource.RLIM_INFINITY else max(1, min(MAX_OPEN, limit // 4))


class _OpenFile:
    """A descriptor that is closed when nobody uses it any more: a thread that still reads keeps it open."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class TarReader:
    """Reads byte ranges of numbered files; the least recently used ones are closed again.

    Safe from several threads, after fork and through pickle: each process opens the files itself.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._start_process()

    def _start_process(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()  # one inherited through fork may be held by a thread that is not there
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        self._most_open = most_open()

    def read(self, number: int, offset: int, length: int) -> bytes:
        """`length` bytes of file `number` from `offset`.

        Raises:
            ValueError: if the file is gone or ends early.
        """
        file = self._file(number)
        data = os.pread(file.descriptor, length, offset)
        if len(data) != length:
            raise ValueError(
                f"{self.paths[number]} ends before byte {offset + length}: truncated; {how_to_remake(self.paths[number])}"
            )
        return data

    def _file(self, number: int) -> _OpenFile:
        if self._process != os.getpid():
            self._start_process()
        with self._lock:
            file = self._open.get(number)
            if file is None:
                try:
                    file = self._open[number] = _OpenFile(os.open(self.paths[number], os.O_RDONLY))
                except OSError as error:
                    raise ValueError(
                        f"{self.paths[number]} cannot be opened ({error.strerror}); {how_to_make(self.paths[number])}"
                    ) from None
                if len(self._open) > self._most_open:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(number)
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.paths = state["paths"]
        self._start_process()
