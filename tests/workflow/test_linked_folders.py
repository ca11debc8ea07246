"""A working directory whose results/, work/ and data/ are links to other file systems, as on a cluster's scratch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.workflow.conftest import Workplace, environment, tiny_config

pytestmark = pytest.mark.slow

LINKED = ("results", "work", "data")
LOST = ("results/consistency", "results/views/s_ldm/00001.parquet", "results/generators/s_ldm")
"""A folder, one file of a shard and a folder that is an output."""


@pytest.fixture
def linked(finished: Workplace, tmp_path: Path) -> Iterator[Workplace]:
    """A copy of the finished run: results/ and data/ in memory, where hard links to work/ are impossible."""
    place = Workplace(tmp_path / "place")
    place.folder.mkdir()
    with TemporaryDirectory(dir="/dev/shm") as memory:
        for name in LINKED:
            target = Path(memory if name != "work" else tmp_path) / f"of {name}"
            shutil.copytree(finished.folder / name, target, symlinks=True)
            (place.folder / name).symlink_to(target)
        shutil.copytree(finished.folder / ".snakemake", place.folder / ".snakemake", symlinks=True)
        place.write_config(tiny_config())
        yield place


def verify(place: Workplace, *options: str) -> tuple[int, dict[str, object]]:
    command = ["cdgmae", "verify", *options, "--json", "results"]
    done = subprocess.run(command, cwd=place.folder, capture_output=True, text=True, env=environment())
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_a_run_over_linked_folders_is_checked_mended_and_has_then_nothing_to_do(linked: Workplace) -> None:
    assert os.stat(linked.folder / "results/").st_dev != os.stat(linked.folder / "work/").st_dev
    assert linked.planned_jobs() == {}
    for name in LOST:
        path = linked.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    damaged = linked.folder / "results/pretrain/crops/seed0/metrics.parquet"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert verify(linked, "--repair")[0] == 1
    assert not damaged.exists()
    done = linked.run("--show-failed-logs")
    assert done.returncode == 0, done.stderr[-3000:]
    assert verify(linked)[0] == 0
    assert damaged.is_file()
    assert all((linked.folder / name).is_symlink() for name in LINKED)
    assert all((linked.folder / name).exists() for name in LOST)
    assert linked.planned_jobs() == {}
