"""kill -9 at any moment: the same command again ends with the bytes of an undisturbed run, and makes nothing again that was kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.ledger import Count, recorded, sample
from tests.faults.rounds import Round, Straight
from tests.faults.stages import Place, Stage

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
        this = Round(stage, place, straight, tmp_path / str(number), count)
        kills = 0
        while kills < min(KILLS_OF_ONE_RUN, wanted - count.injected - kills) and this.kill_at_work(draw):
            kills += 1
        if kills:
            problems += this.finish(kills)
    assert recorded(stage.name, "kill -9", count).all_survived, problems
