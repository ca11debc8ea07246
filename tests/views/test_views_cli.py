"""The commands of the views stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from cdgmae.cli import app
from tests.generators.conftest import ENCODER, training_settings


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(app, ["views", *(str(argument) for argument in arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.strip().splitlines()[-1])


def test_train_sample_and_show(shard_tar: Path, tmp_path: Path) -> None:
    generator, views, strip = tmp_path / "generator", tmp_path / "views" / "00000.tar", tmp_path / "bag.png"
    settings = training_settings().canonical_json()
    trained = run("train-generator", "--settings", settings, "--shards", shard_tar.parent, "--encoder", ENCODER, "--output", generator,
                  "--device", "cpu", "--json")  # fmt: skip
    sampling = '{"kind": "s_ldm", "num_views": 2, "num_inference_steps": 2, "batch_size": 8}'
    sampled = run("make", "--settings", sampling, "--shard", shard_tar, "--input", f"generator={generator}", "--output", views, "--device", "cpu",
                  "--json")  # fmt: skip
    assert (sampled["views"], sampled["bad"]) == (12, 0)
    shown = run("show", "bee", "--shards", shard_tar.parent, "--views", views.parent, "--output", strip, "--json")
    assert [row["view_index"] for row in shown["rows"]] == [0, 1, 2]
    assert {row["generator"] for row in shown["rows"][1:]} == {trained["digest"]}
    assert Image.open(strip).size == (32 + 4 + 24 + 4 + 24, 24)
    text = CliRunner().invoke(app, ["views", "show", "bee", "--shards", str(shard_tar.parent), "--output", str(strip)]).output
    assert "view 0" in text
    assert "sha256" in text


def test_wrong_keys_and_folders_are_named(shard_tar: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keys look like ant, bee, cat"):
        run("show", "zebra", "--shards", shard_tar.parent)
    with pytest.raises(ValueError, match="no usable image: truncated"):
        run("show", "gnu", "--shards", shard_tar.parent, "--output", tmp_path / "bag.png")
    with pytest.raises(ValueError, match=r"holds no \.tar shards"):
        run("show", "ant", "--shards", tmp_path)
    with pytest.raises(ValueError, match="no generator folder"):
        run(
            "make",
            "--settings",
            '{"kind": "s_ldm"}',
            "--shard",
            shard_tar,
            "--input",
            f"generator={tmp_path}",
            "--output",
            tmp_path / "v.tar",
        )
    with pytest.raises(ValueError, match="num_viws"):
        run("make", "--settings", '{"kind": "s_ldm", "num_viws": 2}', "--shard", shard_tar, "--output", tmp_path / "views.tar")
