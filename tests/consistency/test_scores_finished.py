"""Finished scores are found again when the declared table was deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from tests.consistency.drawn_bags import SIZE, TINY_VIT, bags, write_shard


def test_deleted_scores_come_back_without_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, views = bags(4, 2)
    tars = [write_shard(tmp_path / name / "00000.tar", images) for name, images in (("real", real), ("views", views))]
    output = tmp_path / "scores" / "00000.parquet"

    def score(source: str = "s_ldm") -> dict:
        result = CliRunner().invoke(app, [
            "consistency", "score", "--real", str(tars[0]), "--views", str(tars[1]), "--encoder", TINY_VIT, "--source", source,
            "--output", str(output), "--image-size", str(SIZE), "--finished", str(tmp_path / "kept"), "--device", "cpu", "--json",
        ], catch_exceptions=False)  # fmt: skip
        assert result.exit_code == 0, result.output
        return json.loads(result.output.strip().splitlines()[-1])

    made = score()
    before = output.read_bytes()
    output.unlink()
    with monkeypatch.context() as patched:
        patched.delattr("cdgmae.models.encoders.by_name._load")
        assert score() == {**made, "found_finished": 8, "restored": True}
    assert output.read_bytes() == before
    assert "restored" not in score("rcg")
