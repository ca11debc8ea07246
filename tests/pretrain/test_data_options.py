"""What users reach from `cdgmae pretrain run`: views chosen by score, clips as bags, shards copied to a local disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.consistency.score_tables import SCORE_SCHEMA
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.tables import write_table
from tests.pretrain.drawn_bags import RUN, write_bags

SHORT = RUN.model_copy(update={"epochs": 1, "num_anchors": 1})


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 bags with 3 views; the scores of the last 8 bags are low, and those of view 3 are negative."""
    folder = tmp_path_factory.mktemp("bags")
    write_bags(folder)
    rows = []
    for number in range(20):
        for view in (1, 2, 3):
            nps = (0.8 if number < 12 else 0.4) - (1.0 if view == 3 else 0.0)
            scores = {"gs": 0.95, "ls": 0.9, "nps": nps, "nps_reverse": nps}
            fixed = {"view_a": 0, "status": "ok", "source": "s_ldm", "encoder": "e"}
            rows.append({"key": f"n{number:04d}", "view_b": view, **scores, **fixed})
    write_table(folder / "scores/00000.parquet", rows, SCORE_SCHEMA)
    return folder


def arguments(bags: Path, output: Path, settings: PretrainRunSettings, *flags: str) -> list[str]:
    return [
        "run", "--settings", settings.canonical_json(), "--shards", str(bags / "shards"), "--views", str(bags / "views"),
        "--output", str(output), "--device", "cpu", "--json", *flags,
    ]  # fmt: skip


def train(bags: Path, output: Path, settings: PretrainRunSettings, *flags: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["pretrain", *arguments(bags, output, settings, *flags)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return printed


def test_bags_without_views_that_pass_the_filter_are_left_out_and_counted(bags: Path, tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"view_filter": "nps >= 0.6 and gs >= 0.9"})
    result = train(bags, tmp_path / "out", settings, "--consistency", str(bags / "scores"))
    assert (result["bags"], result["bags_left_out"]) == (12, 8)
    inputs = json.loads((tmp_path / "out/config.json").read_text())["inputs"]
    assert sorted(inputs) == ["scores/00000.parquet", "shards/00000.tar", "views/00000.tar"]


def test_weighted_run_draws_other_views_than_an_unweighted_one(bags: Path, tmp_path: Path) -> None:
    weighted = SHORT.model_copy(update={"view_weight": "nps"})
    result = train(bags, tmp_path / "weighted", weighted, "--consistency", str(bags / "scores"))
    plain = train(bags, tmp_path / "plain", SHORT)
    assert (result["bags"], result["bags_left_out"]) == (20, 0)
    assert result["first_loss"] != plain["first_loss"]


def test_scores_are_asked_for(bags: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need --consistency FOLDER"):
        train(bags, tmp_path / "out", SHORT.model_copy(update={"view_filter": "nps > 0"}))
    with pytest.raises(ValueError, match=r"holds no \.parquet tables"):
        train(bags, tmp_path / "out", SHORT.model_copy(update={"view_weight": "gs"}), "--consistency", str(tmp_path))


def test_clips_train_as_pairs_of_frames(bags: Path, tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"pretext": "video_pairs", "frame_gap": (1, 2)})
    result = train(bags, tmp_path / "out", settings)
    assert (result["steps"], result["bags"]) == (2, 20)


def test_shards_copied_to_a_local_disk_give_the_same_run(bags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_DISK", str(tmp_path / "local"))
    train(bags, tmp_path / "local-run", SHORT, "--runtime", '{"local_copy": "$LOCAL_DISK/shards"}')
    train(bags, tmp_path / "run", SHORT)
    assert len(list((tmp_path / "local/shards").rglob("*.tar"))) == 2
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "local-run" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
