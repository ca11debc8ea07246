"""Intervals of the means, the paper's rows beside ours, and the distance to video frames."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.consistency import bootstrap
from cdgmae.consistency.bootstrap import mean_intervals
from cdgmae.consistency.consistency_summary import paper_counterpart, paper_distance, summarise
from cdgmae.consistency.score_tables import METRICS, SCORE_SCHEMA
from cdgmae.storage.tables import write_table


def test_interval_of_independent_bags_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, (1500, 2))
    low, high = mean_intervals(values, np.ones(1500), "x")
    error = values.std(axis=0) / math.sqrt(1500)
    np.testing.assert_allclose((high + low) / 2, values.mean(axis=0), atol=0.2 * error.max())
    np.testing.assert_allclose((high - low) / 2, 1.96 * error, rtol=0.1)
    assert (mean_intervals(values, np.ones(1500), "x") == (low, high)).all()


def test_repeated_views_of_a_bag_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, (400, 1))
    once, often = (mean_intervals(values * count, np.full(400, float(count)), "x") for count in (1, 16))
    np.testing.assert_allclose(once, often)


def test_groups_of_many_bags_give_the_interval_of_single_bags(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    counts = random.integers(1, 5, 40_000).astype(float)
    sums = random.normal(0.5, 0.1, (40_000, 1)) * counts[:, None]
    grouped = mean_intervals(sums, counts, "x")
    monkeypatch.setattr(bootstrap, "MAX_GROUPS", 100_000)
    monkeypatch.setattr(bootstrap, "NUM_RESAMPLES", 300)
    exact = mean_intervals(sums, counts, "x")
    assert grouped[1] - grouped[0] == pytest.approx(exact[1] - exact[0], rel=0.15)
    assert grouped.mean() == pytest.approx(exact.mean(), abs=2e-4)


def test_bags_without_scores_do_not_count_and_one_bag_has_no_interval() -> None:
    values, counts = np.array([[0.5], [0.0], [0.7]]), np.array([1.0, 0.0, 1.0])
    assert (mean_intervals(values, counts, "x") == mean_intervals(values[[0, 2]], counts[[0, 2]], "x")).all()
    assert np.isnan(mean_intervals(values[:2], counts[:2], "x")).all()


def write_source(folder: Path, source: str, kind: str, means: dict[str, float], **result: Any) -> Path:
    """A table of one source: 40 bags of two views around the given means."""
    random = np.random.default_rng(0)
    rows = [
        {"key": f"k{bag:03d}", "view_a": 0, "view_b": view, "status": "ok", "source": source, "encoder": result.get("encoder", "abc")}
        | {metric: float(means.get(metric, 0.5) + offset) for metric in METRICS}
        for bag, offset in enumerate(random.uniform(-0.02, 0.02, 40)) for view in (1, 2)
    ]  # fmt: skip
    path = folder / source / "00000.parquet"
    write_table(
        path, rows, SCORE_SCHEMA, extra={"source": source, "kind": kind, "image_size": 224, "features": "final_norm", **result}
    )
    return path


def test_generators_are_ranked_by_their_distance_to_the_video_source(tmp_path: Path) -> None:
    paths = [
        write_source(tmp_path, "clips", "video", {"gs": 0.9, "ls": 0.4, "nps": 0.8}),
        write_source(tmp_path, "near", "s_ldm", {"gs": 0.9, "ls": 0.4, "nps": 0.7}),
        write_source(tmp_path, "far", "rcg", {"gs": 0.8, "ls": 0.2, "nps": 0.6}),
        write_source(tmp_path, "pipeline", "diffusers", {}),
        write_source(tmp_path, "other_encoder", "s_ldm", {"gs": 0.9}, encoder="def"),
        write_source(tmp_path, "other_features", "s_ldm", {"gs": 0.9}, features="last_block"),
    ]
    summarise(paths, tmp_path / "summary.parquet", tmp_path / "summary.csv")
    rows = {row["source"]: row for row in pq.read_table(tmp_path / "summary.parquet").to_pylist()}
    assert rows["clips"]["distance"] == 0
    assert rows["near"]["distance"] == pytest.approx(0.1, abs=1e-6)
    assert rows["far"]["distance"] == pytest.approx(0.3, abs=1e-6)
    assert [rows[name]["reference"] for name in ("near", "far", "pipeline", "other_encoder", "other_features")] == [
        "clips", "clips", "clips", None, None,
    ]  # fmt: skip
    assert (rows["near"]["paper"], rows["near"]["paper_nps"]) == ("Table 1: Diffusion (S-LDM)", 0.794)
    assert (rows["far"]["paper"], rows["far"]["paper_gs"]) == ("Table 9: RCG S-LDM", 0.951)
    assert rows["far"]["paper_distance"] > rows["near"]["paper_distance"] > rows["clips"]["paper_distance"] == 0
    assert rows["pipeline"]["paper"] is None
    assert (rows["near"]["bags"], rows["near"]["pairs"]) == (40, 80)
    for row in rows.values():
        assert row["nps_q05"] < row["nps_low"] < row["nps_mean"] < row["nps_high"] < row["nps_q95"]
        assert row["nps_q25"] < row["nps_q50"] < row["nps_q75"]
    shown = CliRunner(env={"COLUMNS": "140", "NO_COLOR": "1"}).invoke(app, ["consistency", "show", "--results", str(tmp_path)])
    assert "0.300" in shown.stdout
    assert [source for source in re.findall(r"\w+", shown.stdout) if source in rows][:3] == ["clips", "near", "far"]
    assert f"{rows['near']['nps_low']:.4f} to {rows['near']['nps_high']:.4f}" in shown.stdout


def test_tables_of_one_source_scored_at_different_sizes_are_not_mixed(tmp_path: Path) -> None:
    first = write_source(tmp_path, "s_ldm", "s_ldm", {})
    second = write_source(tmp_path / "other", "s_ldm", "s_ldm", {}, image_size=64)
    with pytest.raises(ValueError, match=r"different encoders or settings \(abc 224 final_norm, abc 64 final_norm\)"):
        summarise([first, second], tmp_path / "summary.parquet", tmp_path / "summary.csv")


def test_papers_own_ranking_is_reproduced() -> None:
    kinds = ("video", "s_ldm", "rcg", "knn", "random")
    distances = [paper_distance(counterpart[1]) for kind in kinds if (counterpart := paper_counterpart(kind)) is not None]
    assert len(distances) == 5
    assert distances == sorted(distances)
    assert paper_counterpart("crops") is None
