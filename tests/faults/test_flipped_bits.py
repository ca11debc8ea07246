"""One flipped bit: in results `verify` finds it, in unfinished work it is made again, in what a stage reads it is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdgmae.names import RECORD_SUFFIX
from cdgmae.storage.tables import file_sha256
from cdgmae.storage.verify import verify_paths
from tests.faults.ledger import Count, recorded, sample
from tests.faults.rounds import TRACEBACK, Round, Straight
from tests.faults.stages import STAGES, Place, Stage
from tests.faults.test_places import READS_PRIVATE_FILES, inputs_of


@contextmanager
def flipped(file: Path, draw: random.Random) -> Iterator[str]:
    """One bit of a file is another one; gives which."""
    content = file.read_bytes()
    damaged, place, bit = bytearray(content), draw.randrange(len(content)), draw.randrange(8)
    damaged[place] ^= 1 << bit
    file.write_bytes(damaged)
    try:
        yield f"{file}: bit {bit} of byte {place}"
    finally:
        if file.exists():
            file.write_bytes(content)


@pytest.mark.parametrize("stage", STAGES, indirect=True)
def test_verify_finds_every_flipped_bit(stage: Stage, straight: Straight) -> None:
    """40 of every kind of file, in the long set."""
    draw, count, missed = random.Random(stage.name), Count(), []
    kinds = {
        (path.suffix, path.stem.strip("0123456789_")): path
        for path in sorted(straight.folder.rglob("*"))
        if path.is_file() and path.stat().st_size
    }
    for file in kinds.values():
        for _ in range(sample(4, 40)):
            with flipped(file, draw) as place:
                found = any(not finding.ok for finding in verify_paths([straight.folder]))
            count.injected += 1
            count.survived += found
            count.silent += not found
            missed += [] if found else [place]
    assert recorded(stage.name, "flipped bit of a result", count).all_survived, missed


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if stage.units], indirect=True)
def test_damaged_work_is_made_again(stage: Stage, place: Place, straight: Straight, tmp_path: Path) -> None:
    draw, count, problems = random.Random(stage.name), Count(), []
    for number in range(sample(1, 12)):
        this = Round(stage, place, straight, tmp_path / str(number), count)
        this.kill_at_work(draw, in_work=True)
        work = [path for path in sorted(this.folder.rglob("*")) if path.is_file() and path.stat().st_size]
        file = draw.choice(work)
        damaged, place_of_bit = bytearray(file.read_bytes()), draw.randrange(file.stat().st_size)
        damaged[place_of_bit] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        before = count.lost
        problems += this.finish(work_may_be_lost=True)
        count.silent += count.lost > before
    assert recorded(stage.name, "flipped bit of unfinished work", count).all_survived, problems


@pytest.mark.parametrize("stage", READS_PRIVATE_FILES, indirect=True)
def test_no_stage_uses_a_flipped_bit(stage: Stage, place: Place, straight: Straight, tmp_path: Path) -> None:
    """It is refused by name (of a folder with one record by that), or it changes nothing but the digest of the input that is noted: not every bit
    of a file matters to every reader.
    """
    draw, count, problems = random.Random(stage.name), Count(), []
    inputs = inputs_of(stage, place, tmp_path / "none")
    for number in range(sample(1, 12)):
        this, file = Round(stage, place, straight, tmp_path / str(number), count), draw.choice(inputs)
        whole = file_sha256(file)
        with flipped(file, draw) as where:
            code, log = this.run()
            damaged = file_sha256(file)
        named = (file.name, file.stem, *(str(folder) for folder in file.parents if (folder / RECORD_SUFFIX).is_file()))
        if code == 0 and (different := list(this.differences({damaged: whole}))):
            count.silent += 1
            problems.append(f"{where} changed {different}")
        elif code and (code != 1 or TRACEBACK in log or not any(name in log for name in named)):
            count.traceback += 1
            problems.append(f"{where}: {log}")
        problems += this.finish(work_may_be_lost=True)
    assert recorded(stage.name, "flipped bit of an input", count).all_survived, problems
