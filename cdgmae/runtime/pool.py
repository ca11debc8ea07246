"""The one pool of worker processes: numbered items shared out to one process per device, without any collective operation.

The coordinator hands out numbers, one at a time, to whoever asks. If a process dies, its unfinished items go to the others; if the
coordinator dies, the others notice when they ask why to stop or what is next, and end.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from cdgmae.runtime.devices import limit_threads
from cdgmae.runtime.interrupts import Interrupted, OutOfDeviceMemory, TransientProblem
from cdgmae.runtime.logs import start_logging

logger = logging.getLogger("cdgmae")

POLL_SECONDS = 0.2
EXIT_SECONDS = 5.0


class PoolWork(Protocol):
    """What every process of a pool runs; picklable, e.g. a `functools.partial` of a function of a module."""

    def __call__(
        self,
        slot: int,
        device: torch.device,
        numbers: Iterator[int],
        stop_reason: Callable[[], str | None],
        finished: Callable[[int, Any], None],
    ) -> None:
        """Work through the items that this process gets.

        Args:
            slot: Number of the process in the pool.
            device: Where to compute.
            numbers: Numbers of the items to do; may be asked ahead of the work.
            stop_reason: Why to stop now, or None; raises `Interrupted` if the coordinator is gone.
            finished: To be told the number and the result of each item that cannot be lost any more; from any thread.

        Raises:
            Interrupted: if it stopped inside an item.
            ValueError: if it cannot go on; the coordinator is told.
        """
        ...


@dataclass
class _Worker:
    """One process, seen from the coordinator."""

    process: Any
    pipe: Connection
    open_numbers: set[int] = field(default_factory=set)
    waiting: bool = False
    error: ValueError | None = None


@dataclass
class _Pool:
    """All processes and the numbers that none of them has."""

    workers: list[_Worker]
    numbers: deque[int]
    stop: Any
    stop_reason: Callable[[], str | None]

    def serve(self, *, fail_fast: bool = False) -> Iterator[tuple[int, Any]]:
        """Hand out numbers and give results until all processes have ended."""
        alive = [worker for worker in self.workers if not worker.pipe.closed]
        while alive:
            for pipe in wait([worker.pipe for worker in alive], POLL_SECONDS):
                worker = next(worker for worker in alive if worker.pipe is pipe)
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):  # it ended, or was killed
                    alive.remove(worker)
                    self._bury(worker)
                    continue
                if kind == "next":
                    worker.waiting = True
                elif kind == "failed":
                    worker.error = content
                    if fail_fast:
                        raise content
                else:
                    worker.open_numbers.discard(content[0])
                    yield content
            if self.stop_reason() is not None:
                self.stop.set()
            self._hand_out(alive)

    def _bury(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.join(EXIT_SECONDS)
        if worker.open_numbers and worker.error is None and not self.stop.is_set():
            worker.error = TransientProblem(
                f"{worker.process.name} ended with exit code {worker.process.exitcode}, most often for lack of memory; what is finished "
                "is kept: run it again, with a lower runtime.workers if memory was short"
            )
        self.numbers.extend(sorted(worker.open_numbers))
        worker.open_numbers.clear()

    def _hand_out(self, alive: Sequence[_Worker]) -> None:
        """Answer the waiting workers; "none left" only when no number can come back from a worker that dies."""
        for worker in alive:
            if not worker.waiting:
                continue
            at_work = any(other.open_numbers for other in alive if other is not worker)
            answer = None
            if self.numbers and not self.stop.is_set():
                answer = self.numbers.popleft()
                worker.open_numbers.add(answer)
            elif at_work and not worker.open_numbers and not self.stop.is_set():
                continue
            worker.waiting = False
            try:
                worker.pipe.send(answer)
            except OSError:
                logger.debug("%s ended while it was being answered", worker.process.name)


def share_out(
    work: PoolWork,
    count: int,
    devices: Sequence[torch.device],
    *,
    name: str,
    threads: int | None,
    stop_reason: Callable[[], str | None] = lambda: None,
    fail_fast: bool = False,
) -> Generator[tuple[int, Any]]:
    """Do items 0 .. count - 1 with one process per device; gives the number and result of each as it is finished.

    When the consumer stops early (close the generator), no new item is begun and the running ones come to their end.

    Args:
        work: What each process runs.
        count: Number of items.
        devices: One process each; the same device may occur more than once.
        name: Of the processes, in messages.
        threads: CPU threads of all processes together; None for what each of them finds.
        stop_reason: Why everything should stop now, or None.
        fail_fast: Raise the first error that a process reports; otherwise the others go on with its items.

    Raises:
        ValueError: if items are left although no stop was asked for, with what the first process said that failed.
    """
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
    pool = _Pool([], deque(range(count)), context.Event(), stop_reason)
    share = None if threads is None else max(1, threads // len(devices))
    try:
        for slot, device in enumerate(devices):
            here, there = context.Pipe()
            process = context.Process(
                target=_run, args=(work, slot, device, there, pool.stop, share), name=f"{name}-{slot}", daemon=True
            )
            process.start()
            there.close()
            pool.workers.append(_Worker(process, here))
        try:
            yield from pool.serve(fail_fast=fail_fast)
        except (GeneratorExit, ValueError):
            pool.stop.set()
            for _ in pool.serve():
                pass
            raise
    finally:
        for worker in pool.workers:
            worker.process.join(EXIT_SECONDS)
            worker.process.kill()
            worker.process.join()
    errors = [worker.error for worker in pool.workers if worker.error]
    if pool.numbers and not pool.stop.is_set():
        raise errors[0] if errors else TransientProblem(f"{len(pool.numbers)} items of {name} are left: run it again")
    for error in errors:
        logger.warning("a process of %s failed, the others did its work: %s", name, error)


def _run(work: PoolWork, slot: int, device: torch.device, pipe: Connection, stop: Any, threads: int | None) -> None:
    """Body of one process."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a scheduler signals all processes of a job; the coordinator decides
    start_logging()
    limit_threads(threads)
    parent, sending = multiprocessing.parent_process(), threading.Lock()

    def send(message: tuple[str, Any]) -> None:
        with sending:  # one thread may ask for numbers while another reports
            pipe.send(message)

    def stop_reason() -> str | None:
        if parent is not None and not parent.is_alive():
            raise Interrupted("the coordinating process is gone")
        return "stop requested" if stop.is_set() else None

    try:
        work(slot, device, _numbers(pipe, send), stop_reason, lambda number, result: send(("finished", (number, result))))
    except (Interrupted, EOFError, BrokenPipeError) as interruption:
        logger.info("%s: %s", multiprocessing.current_process().name, interruption or "the coordinating process is gone")
    except OutOfDeviceMemory as error:
        send(("failed", error))
    except ValueError as error:
        send(("failed", ValueError(str(error))))  # without causes, which may not travel
    except (OSError, RuntimeError) as error:
        send(("failed", TransientProblem(str(error))))
    finally:
        pipe.close()


def _numbers(pipe: Connection, send: Callable[[tuple[str, Any]], None]) -> Iterator[int]:
    while True:
        send(("next", None))
        number = pipe.recv()
        if number is None:
            return
        yield number
