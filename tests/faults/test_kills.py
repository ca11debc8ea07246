"""kill -9 at any moment: the same command again ends with the bytes of an undisturbed run, and makes nothing again that was kept."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cdgmae.storage.files.records import RECORD_SUFFIX
from cdgmae.storage.verify import verify_paths
from tests.faults.conftest import Straight
from tests.faults.forked import ForkedCommand
from tests.faults.ledger import Count, sample, settle
from tests.faults.stages import Place, Stage, contents
from tests.faults.watch import Trace

KILLS = {
    "shards write": (3, 60), "views make (s_ldm)": (3, 90), "views make (random)": (1, 30), "views embed": (1, 30),
    "views index": (1, 20), "consistency score": (2, 70), "consistency summarise": (1, 20), "pretrain run": (3, 80),
    "views train-generator": (3, 70), "propagation run": (2, 50),
}  # fmt: skip
"""Of the short and of the long set."""

KILLS_OF_ONE_RUN = 6


@pytest.mark.parametrize("stage", KILLS, indirect=True)
def test_kills(stage: Stage, place: Place, straight: Straight, tmp_path: Path) -> None:
    draw, count, problems = random.Random(stage.name), Count(), []
    wanted = sample(*KILLS[stage.name])
    for number in range(10 * wanted):
        if count.injected >= wanted:
            break
        folder, trace = tmp_path / str(number), Trace(tmp_path / f"{number}.trace")
        kills = 0
        while kills < min(KILLS_OF_ONE_RUN, wanted - count.injected - kills):
            command = stage.start(place, folder, trace.watch)
            wait_for_progress(command, trace, stage, straight, draw)
            if command.end_with(signal.SIGKILL) != -signal.SIGKILL:
                break
            kills += 1
        if kills:
            problems += finish(stage, place, folder, trace, straight, count, kills)
    settle(stage.name, "kill -9", count, *problems)


def wait_for_progress(command: ForkedCommand, trace: Trace, stage: Stage, straight: Straight, draw: random.Random) -> None:
    """Until a drawn amount of work was kept, and a drawn moment longer; a drawn moment for what is made as a whole."""
    pieces = draw.choice((0, 1, 1, 2)) if stage.units else 0
    wanted, share = trace.kept() + pieces, draw.random()
    while trace.kept() < wanted and command.poll() is None:
        time.sleep(0.002)
    time.sleep(share * straight.seconds * (2 / stage.units if pieces else 0.3 if stage.units else 1))


def finish(
    stage: Stage,
    place: Place,
    folder: Path,
    trace: Trace,
    straight: Straight,
    count: Count,
    injected: int,
    mend: Callable[[], object] | None = None,
) -> list[str]:
    """Run the same command to its end and count what became of the faults before."""
    if mend is not None:
        mend()
    if any(folder.rglob(f"*{RECORD_SUFFIX}")):
        trace.forget()  # it was done: asked again, it is made again
    command = stage.start(place, folder, trace.watch)
    code, log = command.end_with(), command.log.read_text()
    count.injected += injected
    found = contents(folder)
    problems = [name for name in straight.contents.keys() | found.keys() if found.get(name) != straight.contents.get(name)]
    problems += (
        [finding.path for finding in verify_paths([folder]) if not (finding.ok and finding.recorded)]
        if code == 0
        else [f"exit code {code}"]
    )
    doubled, tracebacks = trace.doubled(), log.count("Traceback (most recent call last)")
    count.survived += 0 if problems or doubled or tracebacks else injected
    count.lost += len(problems)
    count.doubled += len(doubled)
    count.traceback += tracebacks
    return [f"{folder.name}: {problem}" for problem in problems + doubled] + ([log] if problems or tracebacks else [])
