"""The shards and the generator of `tests.generators.conftest`, for the views tests, and private copies of both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cdgmae.storage.image_shards import index_path
from tests.generators.conftest import generator_dir, one_thread, shard_tar
from tests.views.sampling_case import Case

__all__ = ["generator_dir", "one_thread", "shard_tar"]


@pytest.fixture
def case(shard_tar: Path, generator_dir: Path, tmp_path: Path) -> Case:
    tar = tmp_path / "shards" / "00000.tar"
    tar.parent.mkdir()
    for source in (shard_tar, index_path(shard_tar)):
        shutil.copyfile(source, tar.parent / source.name)
    shutil.copytree(generator_dir, tmp_path / "generator")
    return Case(tmp_path, tar, tmp_path / "generator", shard_tar)
