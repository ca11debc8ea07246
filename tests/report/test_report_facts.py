"""What the page says is computed from the numbers: findings, choice of bags, loss curves, counts of bad images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fake_results import SCORES, FakeResults
from hypothesis import given
from hypothesis import strategies as st

from cdgmae.report.bag_thumbnails import evenly_spaced
from cdgmae.report.propagation_scores import describe_findings, read_scores
from cdgmae.report.shard_counts import read_images
from cdgmae.report.svg_figures import draw_curves
from cdgmae.report.training_curves import MAX_POINTS, read_generators, read_runs
from cdgmae.storage.tables import write_table


def test_all_above_random_is_said_when_it_is_so(fake: FakeResults) -> None:
    fake.write_propagation(
        {**SCORES, "crops": SCORES["cdg"], "cdg": {**SCORES["cdg"], "PCK@0.1": 21.0}, "random": SCORES["random"]}
    )
    fake.write_propagation({"random": SCORES["random"], "cdg": {**SCORES["cdg"], "PCK@0.1": 21.0}})
    sentences = describe_findings(read_scores(fake.root / "propagation"))
    assert sentences == [
        "Every trained encoder (cdg) is above random weights on DAVIS J&F, VIP mIoU and JHMDB PCK@0.1.",
        "Encoder cdg: DAVIS J&F 36.0, above random weights (30.0) by 6.0; VIP mIoU 14.0, above random weights (12.0) by 2.0; "
        "JHMDB PCK@0.1 21.0, above random weights (20.0) by 1.0.",
        "Highest of all encoders: DAVIS J&F cdg (36.0), VIP mIoU cdg (14.0), JHMDB PCK@0.1 cdg (21.0).",
    ]


def test_an_untrained_encoder_can_be_the_best(fake: FakeResults) -> None:
    fake.write_propagation({"random": {**SCORES["random"], "J&F": 50.0}, "cdg": SCORES["cdg"]})
    sentences = describe_findings(read_scores(fake.root / "propagation"))
    assert "cdg on DAVIS J&F (-14.0)" in sentences[0]
    assert sentences[-1].startswith("Highest of all encoders: DAVIS J&F random (50.0)")


def test_sets_that_were_not_run_are_left_out(fake: FakeResults) -> None:
    only_davis = {name: {**dict.fromkeys(values, None), "J&F": values["J&F"]} for name, values in SCORES.items()}
    fake.write_propagation(only_davis)
    sentences = describe_findings(read_scores(fake.root / "propagation"))
    assert sentences[0] == "Every trained encoder (crops and cdg) is above random weights on DAVIS J&F."
    assert "JHMDB" not in " ".join(sentences)


def test_without_random_weights_nothing_is_claimed(fake: FakeResults) -> None:
    fake.write_propagation({"cdg": SCORES["cdg"]})
    assert describe_findings(read_scores(fake.root / "propagation"))[0].startswith("Nothing can be said")


def test_encoders_are_known_by_what_they_are_not_by_their_name(fake: FakeResults) -> None:
    fake.write_propagation(SCORES)
    folder = fake.root / "propagation"
    kinds = {encoder.name: (encoder.kind, encoder.sequences) for encoder in read_scores(folder)}
    sequences = dict.fromkeys(("davis", "vip", "jhmdb"), 3)
    assert kinds == {"random": ("random", sequences), "crops": ("trained", sequences), "cdg": ("trained", sequences)}


@given(st.integers(0, 500), st.integers(1, 64))
def test_bags_are_evenly_spaced_over_the_ranking(total: int, count: int) -> None:
    places = evenly_spaced(total, count)
    assert len(places) == len(set(places)) == min(total, count)
    assert places == sorted(places)
    if min(total, count) > 1:
        assert (places[0], places[-1]) == (0, total - 1)
        gaps = np.diff(places)
        assert gaps.max() - gaps.min() <= 1


def test_long_runs_draw_as_small_as_short_ones(fake: FakeResults) -> None:
    fake.write_runs()
    fake.write_generator()
    runs = read_runs(fake.root / "pretrain", {"crops": [0], "cdg": [10, 0], "gone": [0]})
    assert [(run.name, run.seed) for run in runs] == [("cdg", 0), ("cdg", 10), ("crops", 0)]
    assert all(len(run.curve[0]) == len(run.curve[1]) == 150 < MAX_POINTS and run.steps == 300 for run in runs)
    assert runs[0].epochs == pytest.approx(30.0)
    assert runs[0].final_loss == pytest.approx(0.41, abs=0.02)
    generator = read_generators(fake.root / "generators", ["s_ldm", "gone"])[0]
    assert (generator.label, generator.epochs, generator.settings) == ("s_ldm", None, {"num_steps": 400})


def test_metrics_that_lack_a_column_are_named(tmp_path: Path) -> None:
    schema = pa.schema([("step", pa.int64())])
    write_table(tmp_path / "cdg" / "seed0" / "metrics.parquet", [{"step": 0}], schema)
    with pytest.raises(ValueError, match=r"metrics\.parquet lacks column\(s\) loss, samples_per_second"):
        read_runs(tmp_path, {"cdg": [0]})


def test_bad_images_are_counted_by_reason_and_listed(fake: FakeResults) -> None:
    fake.write_images()
    result = read_images("demo", [fake.root / f"shards/demo/{shard:05d}.tar" for shard in range(3)])
    assert (result.shards, result.expected, result.good, result.bad, dict(result.reasons)) == (
        2,
        3,
        12,
        1,
        {"corrupt or truncated image": 1},
    )
    assert result.tar_bytes == sum(path.stat().st_size for path in (fake.root / "shards" / "demo").glob("*.tar"))


def test_figures_carry_labels_and_are_the_same_every_time() -> None:
    curves = [(f"run {number}", (np.arange(3.0), np.arange(3.0) + number)) for number in range(9)]
    svg = draw_curves(curves, x_label="epoch", y_label="training loss")
    assert svg == draw_curves(curves, x_label="epoch", y_label="training loss")
    assert all(label in svg for label in ("run 0", "run 8", "epoch", "training loss"))
    assert "http://www.w3.org/2000/svg" in svg
