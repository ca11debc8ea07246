"""The page on pre-training: its numbers against literal restatements, its bounds, and what it says is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fake_results import FakeResults
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cdgmae.pretrain.flops import count_flops
from cdgmae.report.pages.pretrain.costs import describe_seconds, read_costs
from cdgmae.report.pages.pretrain.curves import MIN_POINTS, POINT_BUDGET, common_length, stretches, thin
from cdgmae.report.pages.pretrain.panel_images import MAX_WIDTH, MIN_PER_RUN, PANEL_BUDGET, show_panels
from cdgmae.report.pages.pretrain.pretrain_page import write_pretrain_page
from cdgmae.report.training_curves import TrainingLog, read_runs
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.report import ReportSettings
from cdgmae.storage.files.atomic import write_text
from cdgmae.storage.tables import read_table, write_table

EMPTY = (np.zeros(0), np.zeros(0))


RUNS = {"crops": [0], "cdg": [0, 10]}


def write_page(
    results: Path, output: Path, runs: Mapping[str, Sequence[int]] = RUNS, unfinished: Sequence[str] = (), **settings: Any
) -> tuple[str, dict[str, Any]]:
    """The page and its data."""
    write_pretrain_page(ReportSettings(**settings), results, output, read_runs(results / "pretrain", runs), unfinished)
    script = (output / "pretrain/data.js").read_text()
    data: dict[str, Any] = json.loads(script.removeprefix("const pretrainData = ").removesuffix(";\n"))
    return (output / "pretrain/index.html").read_text(), data


def result(steps: int, name: str = "run", seed: int = 0) -> TrainingLog:
    return TrainingLog(name, seed, steps, None, 0.5, 10.0, EMPTY, {})


@given(st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=400), st.integers(1, 30), st.booleans())
def test_stretches_are_literal_means_and_ranges(values: list[float], length: int, harmonic: bool) -> None:
    starts = stretches(len(values), length)
    thinned = thin(np.array(values), starts, harmonic=harmonic)
    own_length = max(1, min(length, len(values) // MIN_POINTS))
    expected = [values[start : start + own_length] for start in range(0, len(values), own_length)]
    assert len(thinned["mean"]) == len(expected)
    for mean, low, high, stretch in zip(thinned["mean"], thinned["low"], thinned["high"], expected, strict=True):
        wanted = len(stretch) / sum(1 / value for value in stretch) if harmonic else sum(stretch) / len(stretch)
        assert (mean, low, high) == pytest.approx((wanted, min(stretch), max(stretch)), rel=1e-4)
    assert len(expected) >= min(MIN_POINTS, len(values))


@given(st.lists(st.integers(1, 2_000_000), min_size=1, max_size=80))
def test_all_runs_together_keep_to_a_number_of_points(steps: list[int]) -> None:
    length = common_length([result(count) for count in steps])
    points = [len(stretches(count, length)) for count in steps]
    assert max(points) <= max(200, 2 * MIN_POINTS)
    assert sum(points) <= max(POINT_BUDGET, 2 * MIN_POINTS * len(steps))


def test_curves_of_all_runs_are_in_the_data(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_runs()
    page, data = write_page(fake.root, tmp_path)
    assert [run["label"] for run in data["runs"]] == ["cdg, seed 0", "cdg, seed 10", "crops, seed 0"]
    assert len({run["colour"] for run in data["runs"]}) == 3
    columns = [metric["column"] for metric in data["metrics"]]
    assert columns == ["loss", "learning_rate", "samples_per_second", "data_wait_share"]
    loss = read_table(fake.root / "pretrain/crops/seed0/metrics.parquet")["loss"].to_pylist()
    crops = data["runs"][2]
    assert (crops["first"][:3], crops["last"][:3], crops["last"][-1]) == ([0, 2, 4], [1, 3, 5], 299)
    for place, (first, last) in enumerate(zip(crops["first"], crops["last"], strict=True)):
        stretch = loss[first : last + 1]
        found = tuple(crops["loss"][part][place] for part in ("mean", "low", "high"))
        assert found == pytest.approx((sum(stretch) / len(stretch), min(stretch), max(stretch)), rel=1e-4)
    assert "Curves are drawn in stretches of 2 steps (fewer for a run of under 80 steps)" in page
    assert len(re.findall(r'<input type="checkbox" name="run"', page)) == 3


def test_costs_are_those_of_the_steps(fake: FakeResults) -> None:
    settings = PretrainRunSettings(image_size=64, patch_size=8, effective_batch_size=16)
    folder = fake.root / "pretrain/a/seed0"
    rates, waits = [8.0, 16.0, 32.0], [0.5, 0.0, 1.0]
    rows = {"step": [0, 1, 2], "loss": [1.0, 0.5, 0.25], "samples_per_second": rates, "data_wait_share": waits}
    table = pa.table(rows)
    write_table(folder / "metrics.parquet", table, table.schema)
    write_text(folder / "config.json", json.dumps({"settings": settings.model_dump(mode="json")}))
    costs = read_costs(fake.root / "pretrain", read_runs(fake.root / "pretrain", {"a": [0]})[0])
    seconds = [16 / rate for rate in rates]
    assert (costs.seconds, costs.duration, costs.batch_size) == (pytest.approx(sum(seconds)), "3.5 s", 16)
    assert costs.waited == pytest.approx((2 * 0.5 + 0.5 * 1.0) / 3.5)
    assert costs.gflops == pytest.approx(count_flops(settings).paper / 1e9)
    write_text(folder / "config.json", json.dumps({"settings": {"unknown": 1}}))
    costs = read_costs(fake.root / "pretrain", read_runs(fake.root / "pretrain", {"a": [0]})[0])
    assert (costs.seconds, costs.gflops, costs.duration) == (None, None, "not recorded")


def test_durations_read_well() -> None:
    assert [describe_seconds(value) for value in (0.25, 59.9, 61, 3599, 7505)] == [
        "0.2 s",
        "1 min 00 s",
        "1 min 01 s",
        "59 min 59 s",
        "2 h 05 min",
    ]


def test_panels_hold_first_and_last_of_the_lowest_seed_and_are_reduced(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_runs()
    wide = fake.root / "pretrain/crops/seed0"
    fake.write_panels(wide, [10 * number for number in range(1, 21)], size=(2 * MAX_WIDTH, 400))
    page, _ = write_page(fake.root, tmp_path)
    shown = show_panels(fake.root / "pretrain", read_runs(fake.root / "pretrain", RUNS), tmp_path / "pretrain")
    assert [(run.run.name, run.run.seed, run.found) for run in shown] == [("cdg", 0, 4), ("crops", 0, 23)]
    assert [panel.step for panel in shown[0].panels] == [75, 150, 225, 300]
    assert [panel.step for panel in shown[1].panels][:: len(shown[1].panels) - 1] == [10, 300]
    assert len(shown[1].panels) == 8
    for panel in shown[1].panels:
        with Image.open(tmp_path / "pretrain" / panel.file) as image:
            assert image.size == (panel.width, panel.height)
            assert image.width <= MAX_WIDTH
    assert 'data-steps="75 150 225 300"' in page
    assert "8 of 23 panels" in page
    files = {path.name for path in (tmp_path / "pretrain/panels").iterdir()}
    assert files == {Path(panel.file).name for run in shown for panel in run.panels}


def test_many_runs_show_fewer_panels_each_but_never_under_three(fake: FakeResults, tmp_path: Path) -> None:
    for count, expected in ((10, 4), (30, MIN_PER_RUN)):
        runs = [result(100, f"run{number:02d}") for number in range(count)]
        for run in runs:
            fake.write_panels(fake.root / run.name / "seed0", range(10, 101, 10), size=(40, 20))
        shown = show_panels(fake.root, runs, tmp_path)
        assert {len(run.panels) for run in shown} == {expected}
        assert all((run.panels[0].step, run.panels[-1].step) == (10, 100) for run in shown)
        assert sum(len(run.panels) for run in shown) <= max(PANEL_BUDGET, MIN_PER_RUN * count)


def test_what_is_missing_is_said(fake: FakeResults, tmp_path: Path) -> None:
    page, data = write_page(fake.root, tmp_path)
    assert "Stage pretrain has not been run" in page
    assert data["runs"] == []
    schema = pa.schema([("step", pa.int64()), ("loss", pa.float64()), ("samples_per_second", pa.float64())])
    rows = [{"step": 0, "loss": 1.0, "samples_per_second": 5.0}]
    write_table(fake.root / "pretrain/old/seed0/metrics.parquet", rows, schema)
    page, data = write_page(fake.root, tmp_path, {"old": [0, 1]}, ["old, seed 1"])
    assert "Not run, or not to its end: old, seed 1." in page
    assert page.count("Not recorded: old, seed 0.") == 2
    assert data["runs"][0]["learning_rate"] is None
    assert "nothing matches results/pretrain/old/seed0/panels/step*.png" in page
    assert "Every step is drawn." in page


def test_names_are_escaped(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_runs()
    nasty = 'a"><img src=x onerror=alert(1)>'
    (fake.root / "pretrain/crops").rename(fake.root / "pretrain" / nasty)
    page, data = write_page(fake.root, tmp_path, {nasty: [0]}, title=nasty)
    assert "<img src=x" not in page
    assert f"{nasty}, seed 0" in [run["label"] for run in data["runs"]]
