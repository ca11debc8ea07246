"""Threads that load what will be asked for next, while the device works on what was asked for last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def read_ahead(executor: Executor, load: Callable[[Item], Loaded], items: Iterable[Item], ahead: int) -> Iterator[Loaded]:
    """What `load` makes of each item, in order, with up to `ahead` of them loaded or loading before they are asked for."""
    waiting: deque[Future[Loaded]] = deque()
    for item in items:
        waiting.append(executor.submit(load, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
