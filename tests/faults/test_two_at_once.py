"""Two of the same command on one place: both end well, the result is one, and what the first made is not made again."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.faults.ledger import Count, recorded, sample
from tests.faults.rounds import Round, Straight
from tests.faults.stages import STAGES, Place, Stage


@pytest.mark.parametrize("stage", STAGES, indirect=True)
def test_two_at_once(stage: Stage, place: Place, straight: Straight, tmp_path: Path) -> None:
    """In every other round of the long set the first one is killed at work."""
    draw, count, problems = random.Random(stage.name), Count(), []
    for number in range(sample(1, 6)):
        this = Round(stage, place, straight, tmp_path / str(number), count)
        first, second = this.start(), this.start()
        if number % 2:
            first.wait_until_or_end(lambda this=this: this.trace.kept() > 0 or not this.stage.units)
            first.end_with(draw.choice((signal.SIGKILL, signal.SIGTERM)))
        codes = [command.end_with() for command in (second, first)]
        log = this.folder.with_suffix(".log").read_text()
        wrong = [*this.differences(), *this.unverified(), *this.trace.doubled()]
        if codes[0] or (codes[1] and not number % 2) or "Traceback" in log:
            wrong.append(f"exit codes {codes}")
        count.injected += 1
        count.survived += not wrong
        count.doubled += len(this.trace.doubled())
        problems += [f"{number}: {wrong} {log}"] if wrong else []
    assert recorded(stage.name, "two at once", count).all_survived, problems
