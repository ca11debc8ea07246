"""The pool of processes: who gets what, and what becomes of the work of a process that fails, is killed or is no longer wanted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from cdgmae.runtime.interrupts import TransientProblem
from cdgmae.runtime.pool import share_out

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_commands")]

CPUS = [torch.device("cpu")] * 2


def square_all(
    folder: Path,
    kill: tuple[int, int] | None,
    slot: int,
    device: torch.device,
    numbers: Iterator[int],
    stop_reason: Callable[[], str | None],
    finished: Callable[[int, int], None],
) -> None:
    """Squares; a process of the slots below `kill[0]` dies at its item `kill[1]` or a later one, once each."""
    for number in numbers:
        if kill is not None and slot < kill[0] and number >= kill[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 99:
            raise ValueError("99 is too many")
        (folder / str(number)).touch()
        finished(number, number**2)


def run(folder: Path, count: int, kill: tuple[int, int] | None = None, **options: bool) -> dict[int, int]:
    return dict(share_out(partial(square_all, folder, kill), count, CPUS, name="squares", threads=2, **options))


def test_every_item_is_done_once_and_those_of_a_killed_process_by_the_others(tmp_path: Path) -> None:
    assert run(tmp_path, 12, kill=(1, 0)) == {number: number**2 for number in range(12)}


def test_a_pool_whose_processes_are_all_killed_says_so(tmp_path: Path) -> None:
    with pytest.raises(TransientProblem, match=r"squares-\d ended with exit code -9, most often for lack of memory"):
        run(tmp_path, 4, kill=(2, 0))


def test_an_error_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="99 is too many"):
        run(tmp_path, 100, fail_fast=True)


def test_nothing_new_is_begun_for_a_consumer_that_stops(tmp_path: Path) -> None:
    results = share_out(partial(square_all, tmp_path, None), 5000, CPUS, name="squares", threads=2)
    assert next(results)[1] >= 0
    results.close()
    assert len(list(tmp_path.iterdir())) < 5000
