"""A command whose whole offspring ends with it, and with the test run, however that ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

KEEPER = Path(__file__).with_name("keeper.py")


class KeptProcess:
    """One command under `keeper.py`.

    Attributes:
        pid: The command's own process.
        log: Both of its output streams.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str], *, cwd: Path | None = None, cgroup: str = ""
    ) -> None:
        options = ["--cgroup", cgroup] if cgroup else []
        self.log = log
        with log.open("ab") as out:
            # In a session of its own: Ctrl-C in the terminal reaches the tests alone.
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", str(KEEPER), *options, "--", *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, env=dict(environment), cwd=cwd, start_new_session=True,
            )  # fmt: skip
        assert self._keeper.stdout is not None
        self.pid = int(self._keeper.stdout.readline())

    def output(self) -> str:
        """What the command has said so far."""
        return self.log.read_text(errors="replace")

    def running(self) -> bool:
        return self._keeper.poll() is None

    def wait(self, seconds: float) -> int:
        """Wait for the command to end by itself.

        Returns:
            Its exit code; 128 + number for a signal.
        """
        try:
            return self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.output()[-6000:]}") from None

    def stop(self) -> None:
        """Ask the command to end, kill what is left, and wait."""
        self._order("stop")

    def kill(self) -> None:
        """Kill the command and everything that came from it, and wait."""
        self._order("kill")

    def _order(self, order: str) -> None:
        assert self._keeper.stdin is not None
        if self.running():
            try:
                self._keeper.stdin.write(f"{order}\n".encode())
                self._keeper.stdin.flush()
            except BrokenPipeError:
                pass  # it ended meanwhile
        self._keeper.wait(60)


def wait_until(what: Callable[[], object], seconds: float, problem: str = "") -> None:
    """Wait until the function `what` returns something true.

    Raises:
        AssertionError: with `problem` if it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, problem or f"not within {seconds} s"
        time.sleep(0.2)
