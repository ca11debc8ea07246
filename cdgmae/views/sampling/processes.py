"""Several processes drawing one shard, one per device, without any collective operation.

The coordinator hands out batch numbers, one at a time, to whoever asks. If a process dies, its unfinished batches go to the
others; if the coordinator dies, the others notice between two steps and end.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from cdgmae.runtime.devices import limit_threads
from cdgmae.runtime.interrupts import Interrupted, OutOfDeviceMemory, TransientProblem
from cdgmae.runtime.logs import start_logging
from cdgmae.views.sampling.draw_loop import DrawingTask, Stopper, draw_batches

logger = logging.getLogger("cdgmae")

POLL_SECONDS = 0.2
EXIT_SECONDS = 5.0


@dataclass
class _Worker:
    """One process, seen from the coordinator."""

    process: Any
    pipe: Connection
    open_batches: set[int] = field(default_factory=set)
    waiting: bool = False
    error: ValueError | None = None


def draw_with_processes(
    task: DrawingTask,
    devices: Sequence[torch.device],
    stop_reason: Callable[[], str | None],
    finished: Callable[[int], None],
    threads: int | None,
) -> None:
    """Draw all batches of a task with one process per device.

    Args:
        task: What to draw.
        devices: One process each; the same device may occur more than once.
        stop_reason: Why everything should stop now, or None.
        finished: Told the number of each batch that can no longer be lost.
        threads: CPU threads of all processes together.

    Raises:
        ValueError: if batches are left although no stop was asked for: every process that could draw them has failed.
    """
    context = multiprocessing.get_context("spawn")
    stop, open_numbers = context.Event(), deque(range(len(task.batches)))
    share = None if threads is None else max(1, threads // len(devices))
    workers = []
    try:
        for slot, device in enumerate(devices):
            here, there = context.Pipe()
            process = context.Process(
                target=_work, args=(task, slot, device, there, stop, share), name=f"views-{slot}", daemon=True
            )
            process.start()
            there.close()
            workers.append(_Worker(process, here))
        _serve(workers, open_numbers, stop, stop_reason, finished)
        left = len(open_numbers) + sum(len(worker.open_batches) for worker in workers)
    finally:
        for worker in workers:
            worker.process.join(EXIT_SECONDS)
            worker.process.kill()
            worker.process.join()
    errors = [worker.error for worker in workers if worker.error]
    if left and not stop.is_set():
        raise (
            errors[0] if errors else TransientProblem(f"{left} batches were not drawn: all drawing processes ended; run it again")
        )
    for error in errors:
        logger.warning("a drawing process failed, the others drew its views: %s", error)


def _serve(
    workers: Sequence[_Worker],
    open_numbers: deque[int],
    stop: Any,
    stop_reason: Callable[[], str | None],
    finished: Callable[[int], None],
) -> None:
    """Hand out numbers until all workers have ended."""
    alive = list(workers)
    while alive:
        for pipe in wait([worker.pipe for worker in alive], POLL_SECONDS):
            worker = next(worker for worker in alive if worker.pipe is pipe)
            try:
                _receive(worker, worker.pipe.recv(), finished)
            except (EOFError, OSError):  # it ended, or was killed
                alive.remove(worker)
                worker.process.join(EXIT_SECONDS)
                if worker.open_batches and worker.error is None and not stop.is_set():
                    ended = f"drawing process {worker.process.name} ended with exit code {worker.process.exitcode}"
                    worker.error = TransientProblem(ended)
                open_numbers.extend(sorted(worker.open_batches))
                worker.open_batches.clear()
        if stop_reason() is not None:
            stop.set()
        _hand_out(alive, open_numbers, stop)


def _receive(worker: _Worker, message: tuple[str, Any], finished: Callable[[int], None]) -> None:
    match message:
        case ("finished", number):
            worker.open_batches.discard(number)
            finished(number)
        case ("next", None):
            worker.waiting = True
        case ("failed", error):
            worker.error = error


def _hand_out(alive: Sequence[_Worker], open_numbers: deque[int], stop: Any) -> None:
    """Answer the waiting workers; "none left" only when no number can come back from a worker that dies."""
    for worker in alive:
        if not worker.waiting:
            continue
        at_work = any(other.open_batches for other in alive if other is not worker)
        if open_numbers and not stop.is_set():
            answer = open_numbers.popleft()
            worker.open_batches.add(answer)
        elif at_work and not worker.open_batches and not stop.is_set():
            continue
        else:
            answer = None
        worker.waiting = False
        try:
            worker.pipe.send(answer)
        except OSError:
            logger.debug("%s ended while it was being answered", worker.process.name)


def _work(task: DrawingTask, slot: int, device: torch.device, pipe: Connection, stop: Any, threads: int | None) -> None:
    """Body of one process."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a scheduler signals all processes of a job; the coordinator decides
    start_logging()
    limit_threads(threads)
    parent, sending = multiprocessing.parent_process(), threading.Lock()

    def send(message: tuple[str, Any]) -> None:
        with sending:  # the drawing thread asks for numbers while the writing thread reports
            pipe.send(message)

    def reason() -> str | None:
        if parent is not None and not parent.is_alive():
            raise Interrupted("the coordinating process is gone")
        return "stop requested" if stop.is_set() else None

    try:
        draw_batches(task, slot, device, _numbers(pipe, send), Stopper(reason), lambda number: send(("finished", number)))
    except Interrupted as interruption:
        logger.info("%s: %s", multiprocessing.current_process().name, interruption)
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
