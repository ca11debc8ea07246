"""Readers of files from elsewhere, fed with many inputs in a child process that may take neither much memory nor long."""

from __future__ import annotations

import json
import os
import resource
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.ledger import Count

MEMORY = 1 << 30
"""Bytes beyond what the process has when it starts."""

SECONDS = 60
"""For one input."""

Read = Callable[[bytes], object]
"""Takes an input, gives what it holds, or a ValueError or OSError with what is wrong with it."""


def feed(read: Read, inputs: Sequence[bytes], log: Path) -> tuple[Count, list[str]]:
    """How a reader ends for every input: with a result, with a refusal, or in another way, which counts as a traceback."""
    count, problems, start = Count(injected=len(inputs)), [], 0
    while start < len(inputs):
        log.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _read_all(read, inputs, start, log)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        outcomes = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        problems += [f"input {number}: {wrong}" for number, wrong in outcomes if wrong]
        start += len(outcomes)
        if status:  # the next input ended the process
            problems.append(f"input {start}: the process ended with {status}")
            start += 1
    count.traceback = len(problems)
    count.survived = count.injected - len(problems)
    return count, problems


def _read_all(read: Read, inputs: Sequence[bytes], start: int, log: Path) -> None:
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        warnings.simplefilter("ignore")
        with log.open("w", buffering=1) as lines:
            for number in range(start, len(inputs)):
                signal.alarm(SECONDS)
                lines.write(json.dumps([number, _wrong(read, inputs[number])]) + "\n")
        os._exit(0)
    finally:
        os._exit(1)


def _wrong(read: Read, content: bytes) -> str | None:
    """What a user would see beside a result or a message of one paragraph."""
    try:
        read(content)
    except (ValueError, OSError) as error:
        return None if str(error).strip() else f"{type(error).__name__} without a word"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None
