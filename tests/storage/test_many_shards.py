"""Two thousand shards with 64 open files at most: every reader of many shards, and one that opens them one after the other."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdgmae.storage.bags import Bags
from cdgmae.storage.files.local_copy import copy_to_local_disk
from cdgmae.storage.image_shards import OK, ImageRow, ImageShard, ImageShardWriter
from cdgmae.storage.verify import verify_paths
from cdgmae.views.gathering.copying import DataSetImages

SHARDS, OPEN_FILES = 2_000, 64

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One image each."""
    folder = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda _: None)  # no power cut is tried here
        return [write(folder / f"{number:05d}.tar", f"k{number:05d}") for number in range(SHARDS)]


def write(tar: Path, key: str) -> Path:
    with ImageShardWriter(tar) as writer:
        writer.add_image(ImageRow(key, 0, extension="jpg", width=2, height=2), key.encode())
        writer.commit(settings_digest="test")
    return tar


@pytest.fixture
def few_files() -> Iterator[None]:
    """Room for `OPEN_FILES` more than are open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (now + OPEN_FILES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
def test_all_images_of_many_shards_are_read_with_few_open_files(tars: list[Path]) -> None:
    bags, images = Bags(tars), DataSetImages(tars)
    for number in range(SHARDS):
        assert bags.read(bags.bag(number).rows[0]) == images.data(number) == f"k{number:05d}".encode()


@pytest.mark.usefixtures("few_files")
def test_shards_that_are_kept_open_are_few_and_others_are_closed(tars: list[Path], tmp_path: Path) -> None:
    for tar in tars:
        shard = ImageShard(tar)
        shard.read(next(shard.rows(OK)))
    assert all(finding.ok for finding in verify_paths([tars[0].parent]))
    assert len(copy_to_local_disk(tars[:300], tmp_path / "local")) == 300
