"""Command lines run in a forked child, so that tests can kill them without paying for imports again."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from cdgmae.cli import main


class ForkedCommand:
    """`cdgmae ARGUMENTS` in a child process."""

    def __init__(self, arguments: Sequence[object], log: Path, prepare: Callable[[], object] | None = None) -> None:
        """Start it; `prepare` is called in the child first: limits, faults, an eye on its work."""
        self.log = log
        self.pid = os.fork()
        self._code: int | None = None
        if self.pid == 0:
            _run([str(argument) for argument in arguments], log, prepare)

    def poll(self) -> int | None:
        """Exit code, negative for a signal, or None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.poll() is None, "the command ended too early"
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.003)

    def wait_until_or_end(self, condition: Callable[[], bool]) -> None:
        while self.poll() is None and not condition():
            time.sleep(0.003)

    def end_with(self, number: signal.Signals | None = None, seconds: float = 600.0) -> int:
        """Send a signal, if any, and wait for the exit code."""
        if number is not None and self.poll() is None:
            os.kill(self.pid, number)
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        code = self.poll()
        while code is None:
            code = self.poll()
        return code


def _run(arguments: Sequence[str], log: Path, prepare: Callable[[], object] | None) -> None:
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    logging.root.handlers.clear()  # pytest's, in whose place the command line puts none of its own
    sys.argv = ["cdgmae", *arguments]
    code: object = 1
    try:
        if prepare is not None:
            prepare()
        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 0)
