"""A finished shard is found again when it was deleted, until one of its images changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_images import image_bytes
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.manifest import write_manifest
from cdgmae.storage.image_shards import index_path


def test_a_deleted_shard_comes_back_without_reading_a_image(
    make_tree: Callable[..., Path], dataset: Callable[..., DatasetSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_tree("a/1.jpg", "a/2.jpg", "b/3.jpg")
    settings, tar = dataset(root), tmp_path / "out" / "00000.tar"
    write_manifest(settings, 0, tmp_path / "out" / "manifest.parquet")

    def write(*more: str) -> dict:
        result = CliRunner().invoke(app, [
            "shards", "write", "--settings", settings.canonical_json(), "--manifest", str(tar.with_name("manifest.parquet")),
            "--output", str(tar), "--finished", str(tmp_path / "kept"), *more, "--json",
        ], catch_exceptions=False)  # fmt: skip
        assert result.exit_code == 0, result.output
        return json.loads(result.output.strip().splitlines()[-1])

    made, before = write(), (tar.read_bytes(), index_path(tar).read_bytes())
    tar.unlink()
    index_path(tar).unlink()
    with monkeypatch.context() as patched:
        patched.delattr("cdgmae.shards.packing.prepare_image")
        assert write() == {**made, "restored": True}
    assert (tar.read_bytes(), index_path(tar).read_bytes()) == before
    assert "restored" not in write("--jpeg-quality", "50", "--resize", "shorter_side", "--image-size", "16")
    assert "restored" not in write()
    (root / "a/2.jpg").write_bytes(image_bytes(7))
    assert "restored" not in write()
    assert tar.read_bytes() != before[0]


def test_whole_data_sets_are_kept_by_their_shards_alone(make_tree: Callable[..., Path], tmp_path: Path) -> None:
    root = make_tree("a/1.jpg")
    with pytest.raises(ValueError, match="--finished keeps single shards"):
        CliRunner().invoke(
            app, ["shards", "write", "--root", str(root), "--output", str(tmp_path / "o"), "--finished", str(tmp_path)],
            catch_exceptions=False,
        )  # fmt: skip
