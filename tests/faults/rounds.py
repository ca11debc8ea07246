"""What drills of the stages share: the undisturbed run, waiting for real progress, and how a round must end."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgmae.storage.files.records import RECORD_SUFFIX
from cdgmae.storage.verify import verify_paths
from tests.faults.forked import ForkedCommand
from tests.faults.ledger import Count
from tests.faults.stages import Place, Stage, contents
from tests.faults.watch import Trace

TRACEBACK = "Traceback (most recent call last)"
ROWS_LOST = "rows of metrics are lost, the training goes on"
METRICS_NAME = "metrics.parquet"


@dataclass(frozen=True)
class Straight:
    """How an undisturbed run ends, where, and how long it takes."""

    folder: Path
    contents: dict[str, str]
    seconds: float


@dataclass
class Round:
    """One output that faults are done to, and what is found once the same command has run to its end."""

    stage: Stage
    place: Place
    straight: Straight
    folder: Path
    count: Count

    @property
    def trace(self) -> Trace:
        return Trace(self.folder.with_suffix(".trace"))

    def start(self) -> ForkedCommand:
        return self.stage.start(self.place, self.folder, self.trace.watch)

    def kill_at_work(self, draw: random.Random, *, in_work: bool = False) -> bool:
        """Start the command and kill it at a drawn moment, if `in_work` after it kept something; whether it was not too late."""
        command = self.start()
        pieces = draw.choice((1, 2) if in_work else (0, 1, 1, 2)) if self.stage.units else 0
        wanted, share = self.trace.kept() + pieces, draw.random()
        while self.trace.kept() < wanted and command.poll() is None:
            time.sleep(0.002)
        time.sleep(share * self.straight.seconds * (2 / self.stage.units if pieces else 0.3 if self.stage.units else 1))
        return command.end_with(signal.SIGKILL) == -signal.SIGKILL

    def run(self) -> tuple[int, str]:
        """Run the command to its end: exit code, and what this time was printed."""
        self.folder.with_suffix(".log").unlink(missing_ok=True)
        command = self.start()
        return command.end_with(), command.log.read_text()

    def refused(self, *words: str) -> list[str]:
        """Run the command into a fault: it must end in one message with these words."""
        code, log = self.run()
        missing = [word for word in words if word not in log.replace("\n", " ")]
        self.count.traceback += (wrong := code != 1 or bool(missing) or TRACEBACK in log)
        return [f"{self.stage.name}: exit code {code}, without {missing}: {log}"] if wrong else []

    def finish(self, injected: int = 1, *, work_may_be_lost: bool = False) -> list[str]:
        """Run the same command to its end and count what became of the faults before."""
        if work_may_be_lost or any(self.folder.rglob(f"*{RECORD_SUFFIX}")):
            self.trace.forget()  # what was done already is made again when it is asked for again
        code, log = self.run()
        problems = [f"exit code {code}"] if code else [*self.differences(), *self.unverified()]
        if ROWS_LOST in log:  # said, and the training is worth more than they are
            problems = [problem for problem in problems if not problem.endswith(METRICS_NAME)]
        doubled, tracebacks = self.trace.doubled(), log.count(TRACEBACK)
        self.count.injected += injected
        self.count.survived += 0 if problems or doubled or tracebacks else injected
        self.count.lost += len(problems)
        self.count.doubled += len(doubled)
        self.count.traceback += tracebacks
        return [f"{self.folder}: {problem}" for problem in problems + doubled] + ([log] if problems or tracebacks else [])

    def differences(self, noted: Mapping[str, str] | None = None) -> Iterator[str]:
        """Names of the files that are not as in the undisturbed run; `noted`: digest of a damaged input -> of the whole one."""
        found, wanted = contents(self.folder), self.straight.contents
        for damaged, whole in (noted or {}).items():
            found = {name: content.replace(damaged, whole) for name, content in found.items()}
        yield from (name for name in sorted(wanted.keys() | found.keys()) if found.get(name) != wanted.get(name))

    def unverified(self) -> Sequence[str]:
        return [finding.path for finding in verify_paths([self.folder]) if not (finding.ok and finding.recorded)]
