"""Signals and deadlines: long jobs ask `should_stop()` between steps, save, and leave with a documented exit code."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, Self

from cdgmae.runtime.distribution import rank, world_size

NOTES_VARIABLE = "CDGMAE_STOP_NOTES"
"""Folder, shared by all nodes, in which the ranks of one job note why they ended; set by `cdgmae cluster launch`."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send ahead of a limit or a preemption."""

EXIT_INTERRUPTED = 85
"""Exit code of a job that saved its state and stopped early: run it again and it continues."""

EXIT_OUT_OF_MEMORY = 86
"""Exit code of a job whose GPU has too little memory for its settings: running it again unchanged would end alike."""


class Interrupted(RuntimeError):
    """The job stopped early with its state saved; the command line turns this into `EXIT_INTERRUPTED`."""


class TransientProblem(ValueError):
    """What another try may not meet: something is wrong with this node, or a process was killed. All other ValueErrors come again."""


def may_pass(error: BaseException) -> bool:
    """Whether another try may succeed: whatever the operating system refused (libraries raise OSError without its number for bad files),
    and what is known to pass."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TransientProblem) or (isinstance(seen, OSError) and seen.errno is not None):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class OutOfDeviceMemory(ValueError):
    """A GPU's memory does not suffice; the command line turns this into `EXIT_OUT_OF_MEMORY`."""


class StopRequest:
    """Collects reasons to stop while it is entered (`with StopRequest() as stop:`): SIGTERM, SIGUSR1, or a deadline.

    The deadline comes from the environment: CDGMAE_TIME_LIMIT in seconds from now, CDGMAE_DEADLINE as a point in time (seconds since
    1970; `cdgmae cluster launch` sets it from the limit of the Slurm job). The earlier one counts.
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        limit, deadline = os.environ.get("CDGMAE_TIME_LIMIT"), os.environ.get("CDGMAE_DEADLINE")
        ends = [time.time() + float(limit)] if limit else []
        self._deadline = min([*ends, float(deadline)] if deadline else ends, default=None)
        self._former: list[dict[signal.Signals, Any]] = []

    def __enter__(self) -> Self:
        """From here on the signals are noted instead of ending the process; one that is entered already may be entered again."""
        self._former.append({number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS})
        return self

    def __exit__(self, *_: object) -> None:
        """The signals do what they did before."""
        for number, handler in self._former.pop().items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._reason = signal.Signals(number).name

    def reason(self) -> str | None:
        """Why the job should stop now, or None."""
        if self._reason is None and self._deadline is not None and time.time() >= self._deadline:
            self._reason = "time limit"
        return self._reason


def leave_at_once_when_asked() -> None:
    """Until a `StopRequest` takes over, end with `EXIT_INTERRUPTED` on SIGTERM and SIGUSR1, which would else kill this process.

    A job may be preempted or come near its limit while its modules are still being loaded. Nothing is done yet then, so it need only
    be run again.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        # Not by an exception: what is being imported may catch it.
        os.write(2, f"stopped early: {signal.Signals(number).name} came before the work began; run it again\n".encode())
        os._exit(leave_ranks(EXIT_INTERRUPTED))

    for number in STOP_SIGNALS:
        signal.signal(number, leave)


def leave_ranks(code: int) -> int:
    """The exit code with which a process ends whose fellows shall go on to save their state.

    srun and torchrun take every code but 0 for a failure of all and kill the others. So a rank of a group that `cdgmae cluster launch`
    started notes its code in the launcher's folder and ends with 0; the launcher ends with the code that it finds there.
    """
    folder = os.environ.get(NOTES_VARIABLE)
    if folder is None or world_size() == 1:
        return code
    (Path(folder) / str(rank())).write_text(str(code))
    return 0
