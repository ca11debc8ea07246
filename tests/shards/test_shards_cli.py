from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_images import plant_bad_files
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.settings.shards import DatasetSettings
from cdgmae.storage.image_shards import find_shards

Make = Callable[..., Path]
Dataset = Callable[..., DatasetSettings]


def run(*arguments: str) -> dict:
    result = CliRunner().invoke(app, ["shards", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_the_workflow_s_three_commands_give_the_same_files_as_the_one_command(
    make_tree: Make, dataset: Dataset, tmp_path: Path
) -> None:
    root, out = make_tree(*(f"a/{i}.jpg" for i in range(7))), tmp_path / "rules"
    text = dataset(root, num_shards=2, resize="center_crop", image_size=16).canonical_json()
    manifest = str(out / "manifest.parquet")
    assert run("manifest", "--settings", text, "--seed", "3", "--output", manifest)["images"] == 7
    parts = [
        run("write", "--settings", text, "--manifest", manifest, "--output", str(out / f"{name}.tar"))
        for name in ("00000", "00001")
    ]
    assert [part["ok"] for part in parts] == [4, 3]
    result = run("summarise", "--settings", text, "--manifest", manifest, "--output", str(out / "summary.parquet"))
    assert (result["ok"], result["bad"]) == (7, 0)
    flags = ["--settings", "num_shards=2", "--settings", "resize=center_crop", "--settings", "image_size=16", "--seed", "3"]
    run("write", "--root", str(root), "--output", str(tmp_path / "one"), *flags)
    for path in out.glob("[!.]*"):
        assert (tmp_path / "one" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_stale_or_missing_shard_stops_the_summary(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    settings = dataset(make_tree(*(f"a/{i}.jpg" for i in range(4))), num_shards=2).canonical_json()
    manifest = str(tmp_path / "out/manifest.parquet")
    run("manifest", "--settings", settings, "--output", manifest)
    run("write", "--settings", settings, "--manifest", manifest, "--output", str(tmp_path / "out/00000.tar"))
    summarise = ["summarise", "--settings", settings, "--manifest", manifest, "--output", str(tmp_path / "out/summary.parquet")]
    with pytest.raises(ValueError, match=r"00001\.parquet"):
        run(*summarise)
    run("write", "--settings", settings, "--manifest", manifest, "--output", str(tmp_path / "out/00001.tar"))
    run("manifest", "--settings", settings, "--output", manifest, "--seed", "1")
    with pytest.raises(ValueError, match="another manifest"):
        run(*summarise)


def test_bad_calls_say_what_to_give(make_tree: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--root FOLDER"):
        run("write", "--output", str(tmp_path))
    root = str(make_tree("a/1.jpg"))
    with pytest.raises(ValueError, match=r"resize.*'none'"):
        run("write", "--root", root, "--output", str(tmp_path / "out"), "--settings", "resize=bigger")
    with pytest.raises(ValueError, match=r"00007\.tar"):
        run("write", "--root", root, "--manifest", "m.parquet", "--output", str(tmp_path / "out"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot be written"):
        run("write", "--root", root, "--output", str(tmp_path / "file/out"))


def test_bad_files_below_the_limit_end_well(make_tree: Make, tmp_path: Path) -> None:
    root = make_tree(*(f"a/{i}.jpg" for i in range(30)))
    plant_bad_files(root / "b")
    result = run("write", "--root", str(root), "--output", str(tmp_path / "out"), "--settings", "max_bad_fraction=0.5")
    assert result["bad"] == sum(result["reasons"].values()) == 10


def test_shards_that_a_larger_number_left_behind_are_not_read(make_tree: Make, dataset: Dataset, tmp_path: Path) -> None:
    root = make_tree(*(f"a/{i}.jpg" for i in range(6)))
    for number in ("3", "2"):
        text = dataset(root, num_shards=int(number)).canonical_json()
        manifest = str(tmp_path / "manifest.parquet")
        run("manifest", "--settings", text, "--output", manifest)
        for shard in range(int(number)):
            run("write", "--settings", text, "--manifest", manifest, "--output", str(tmp_path / f"0000{shard}.tar"))
        run("summarise", "--settings", text, "--manifest", manifest, "--output", str(tmp_path / "summary.parquet"))
        assert [tar.stem for tar in find_shards(tmp_path)] == ["00000", "00001", "00002"][: int(number)]
    others = [tmp_path / "views" / f"0000{shard}.tar" for shard in range(3)]
    others[0].parent.mkdir()
    for other in others:
        other.touch()
    assert find_shards(tmp_path / "views", find_shards(tmp_path)) == others[:2]
