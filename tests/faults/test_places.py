"""Places that fail: full, read-only, linked, without hard links, with clocks that go wrong, with files that appear late."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdgmae.storage.files.output_cache import NO_LINKS, OutputCache
from cdgmae.storage.image_shards import index_path
from tests.faults.ledger import Count, recorded, sample
from tests.faults.rounds import TRACEBACK, Round, Straight
from tests.faults.stages import STAGES, Place, Stage, contents

YEAR = 365 * 86_400
READS_PRIVATE_FILES = [name for name in STAGES if name not in ("shards write", "propagation run")]
"""Whose input are results; what a folder of images or clips should hold nobody knows."""


class SmallDisk:
    """A file system of its own in memory, reached through a link."""

    def __init__(self, folder: Path) -> None:
        self.mounted, self.link = folder / "disk", folder / "out"
        self.mounted.mkdir()
        self.link.symlink_to(self.mounted)

    def mount(self, *options: str) -> bool:
        program = shutil.which("mount")
        command = [program or "", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(self.mounted)]
        return program is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def again(self, *options: str) -> None:
        assert self.mount("remount", *options)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path)
    if not small.mount("size=64m"):
        pytest.skip("mounting a small file system is not allowed here")
    yield small
    subprocess.run(["umount", small.mounted], check=True)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("stage", STAGES, indirect=True)
def test_full_disk(stage: Stage, place: Place, straight: Straight, disk: SmallDisk) -> None:
    draw, count, problems = random.Random(stage.name), Count(), []
    pages = sum(-(-path.stat().st_size // 4096) + 1 for path in straight.folder.rglob("*"))
    while count.injected < sample(1, 6):
        empty(disk.mounted)
        disk.again(f"size={4 * draw.randint(1, pages)}k")
        this = Round(stage, place, straight, disk.link, count)
        this.trace.forget()
        code, said = this.run()
        if code == 0:
            continue
        if not ("cannot be written" in said and "Free space" in said and str(disk.link) in said):
            count.traceback += 1
            problems.append(said)
        disk.again("size=64m")
        problems += this.finish()
    assert recorded(stage.name, "disk full", count).all_survived, problems


@pytest.mark.parametrize("stage", STAGES, indirect=True)
def test_read_only(stage: Stage, place: Place, straight: Straight, disk: SmallDisk) -> None:
    draw, count, problems = random.Random(stage.name), Count(), []
    for at_work in (True, False)[-sample(1, 2) :]:
        empty(disk.mounted)
        this = Round(stage, place, straight, disk.link, count)
        this.trace.forget()
        if at_work:
            this.kill_at_work(draw)
        disk.again("ro")
        problems += this.refused("Read-only file system", str(disk.link))
        disk.again("rw")
        problems += this.finish()
    assert recorded(stage.name, "read-only", count).all_survived, problems


@pytest.mark.parametrize("stage", STAGES, indirect=True)
def test_clocks_that_go_wrong(stage: Stage, place: Place, straight: Straight, tmp_path: Path) -> None:
    """Files of unfinished work are years older or younger than they should be."""
    draw, count, problems = random.Random(stage.name), Count(), []
    for number in range(sample(1, 3)):
        this = Round(stage, place, straight, tmp_path / str(number), count)
        this.kill_at_work(draw, in_work=True)
        for path in this.folder.rglob("*"):
            moment = time.time() + draw.choice((-10, -1, 1, 10)) * YEAR
            os.utime(path, (moment, moment))
        problems += this.finish()
    assert recorded(stage.name, "clock skew", count).all_survived, problems


@pytest.mark.parametrize("stage", READS_PRIVATE_FILES, indirect=True)
def test_files_that_appear_late(stage: Stage, place: Place, straight: Straight, tmp_path: Path) -> None:
    count, problems = Count(), []
    inputs = inputs_of(stage, place, tmp_path / "none")
    for number, file in enumerate(random.Random(stage.name).sample(inputs, min(len(inputs), sample(1, 6)))):
        this, hidden = Round(stage, place, straight, tmp_path / str(number), count), file.with_name("not yet")
        file.rename(hidden)
        try:
            code, log = this.run()
        finally:
            hidden.rename(file)
        if code != 0 and (
            code != 1 or TRACEBACK in log or not any(name in log for name in (file.name, file.stem, str(file.parent)))
        ):
            count.traceback += 1
            problems.append(f"without {file}: {log}")
        problems += this.finish(work_may_be_lost=True)  # whoever does not read the file is through
    assert recorded(stage.name, "file appears late", count).all_survived, problems


def inputs_of(stage: Stage, place: Place, folder: Path) -> list[Path]:
    """The files that a command names, with the indices of shards."""
    named = [Path(str(word).rpartition("=")[2]) for word in stage.words(place, folder) if str(place.root) in str(word)]
    files = [file for path in named if path.exists() for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    seen = [file for file in files if file.is_file() and not file.name.startswith(".")]
    return list(dict.fromkeys([*seen, *(index_path(tar) for tar in seen if tar.suffix == ".tar")]))


@pytest.mark.parametrize("stage", STAGES, indirect=True)
def test_no_hard_links(stage: Stage, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept in work/finished comes back where no second name can be given."""
    count, problems = Count(), []
    for number in NO_LINKS if sample(0, 1) else NO_LINKS[:1]:

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, errno.errorcode[number])

        monkeypatch.setattr("os.link", refuse)
        results = tmp_path / str(number) / "results"
        shutil.copytree(straight.folder, results)
        kept = OutputCache(
            tuple(sorted(path for path in results.iterdir() if not path.name.startswith("."))), tmp_path / str(number) / "kept"
        )
        kept.store()
        shutil.rmtree(results)
        count.injected += 1
        if kept.restore() and contents(results) == straight.contents:
            count.survived += 1
        else:
            count.lost += 1
            problems.append(str(results))
    assert recorded(stage.name, "no hard links", count).all_survived, problems
