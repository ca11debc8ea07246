"""Bootstrap intervals over sequences, held against scipy's, and the comparison of two encoders in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS
from cdgmae.propagation.benchmarks.jhmdb import Jhmdb
from cdgmae.propagation.measures.intervals import NUM_RESAMPLES, Interval, Tables, resample, sequence_scores
from cdgmae.propagation.measures.score_table import table_schema
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.storage.tables import write_table

Rows = list[dict[str, Any]]


def davis_rows(regions: np.ndarray, encoder: str = "crops", objects: int = 1, top_k: int = 7) -> Rows:
    """A table in which every object of sequence n has J = F = regions[n]."""
    empty = dict.fromkeys(BENCHMARKS["davis"].columns, 0.0)
    common = {
        "encoder": encoder, "seed": 0, "set": "davis", "kind": "davis", "frames": 9, "input_height": 240, "input_width": 424,
        "scored_height": 240, "scored_width": 427, "protocol": json.dumps({"name": "cropmae", "top_k": top_k}), "encoder_digest": "d",
    }  # fmt: skip
    return [
        {**empty, **common, "sequence": f"clip{n:02d}", "item": item, "item_name": str(item), "J_mean": region, "F_mean": region}
        for n, region in enumerate(regions.tolist())
        for item in range(1, objects + 1)
    ]


def score_intervals(tables: Tables) -> dict[str, Interval]:
    return resample(tables).intervals()


def difference_intervals(first: Tables, second: Tables) -> dict[str, Interval]:
    return resample(first).differences(resample(second))


def scipy_interval(statistic: Any, *samples: np.ndarray) -> tuple[float, float]:
    found = scipy.stats.bootstrap(
        samples, statistic, paired=True, vectorized=False, method="percentile", n_resamples=NUM_RESAMPLES,
        rng=numpy_generator(0, "propagation/bootstrap", "sequences"),
    )  # fmt: skip
    return found.confidence_interval


def test_intervals_are_scipys() -> None:
    first, second = np.random.default_rng(1).random((2, 14))
    score = score_intervals([davis_rows(first)])["J&F"]
    assert score.value == pytest.approx(100 * first.mean())
    assert (score.low, score.high) == pytest.approx(scipy_interval(lambda values: 100 * np.mean(values), first))

    difference = difference_intervals([davis_rows(first)], [davis_rows(second)])["J"]
    expected = scipy_interval(lambda a, b: 100 * (np.mean(a) - np.mean(b)), first, second)
    assert difference.value == pytest.approx(100 * (first.mean() - second.mean()))
    assert (difference.low, difference.high) == pytest.approx(expected)


def test_a_common_shift_is_certain_although_the_scores_are_not() -> None:
    regions = np.random.default_rng(2).uniform(0.1, 0.8, 14)
    difference = difference_intervals([davis_rows(regions + 0.02)], [davis_rows(regions)])["J&F"]
    score = score_intervals([davis_rows(regions)])["J&F"]
    assert difference.excludes_zero
    assert (difference.low, difference.high) == pytest.approx((2, 2))
    assert score.high - score.low > 5


def test_seeds_are_averaged_per_sequence_and_in_the_interval() -> None:
    seeds = np.random.default_rng(3).random((2, 6))
    tables = [davis_rows(regions) for regions in seeds]
    assert sequence_scores(tables, "J&F") == pytest.approx(
        {f"clip{n:02d}": 100 * mean for n, mean in enumerate(seeds.mean(axis=0))}
    )
    interval = score_intervals(tables)["J&F"]
    assert (interval.low, interval.high) == pytest.approx(scipy_interval(lambda mean: 100 * np.mean(mean), seeds.mean(axis=0)))


def test_objects_of_a_sequence_are_drawn_together() -> None:
    regions = np.random.default_rng(4).random(6)
    one, three = (score_intervals([davis_rows(regions, objects=objects)])["J&F"] for objects in (1, 3))
    assert (one.low, one.high) == pytest.approx((three.low, three.high))


def test_pooled_measures_are_resampled_by_their_own_formula() -> None:
    """PCK divides sums of counts: clips with more visible joints weigh more, which a mean over clips would miss."""
    random = np.random.default_rng(5)
    rows = [
        dict.fromkeys(Jhmdb.columns, 0)
        | {
            "kind": "jhmdb",
            "sequence": f"clip{n}",
            "item": joint,
            "visible": visible,
            "hits_0.1": int(random.integers(visible + 1)),
        }
        for n, visible in enumerate((4, 50, 7, 30, 12))
        for joint in range(3)
    ]
    hits, visible = (np.array([row[column] for row in rows]).reshape(5, 3) for column in ("hits_0.1", "visible"))
    expected = scipy_interval(
        lambda chosen: 100 * np.mean(hits[chosen.astype(int)].sum(axis=0) / visible[chosen.astype(int)].sum(axis=0)),
        np.arange(5.0),
    )
    found = score_intervals([rows])["PCK@0.1"]
    assert (found.low, found.high) == pytest.approx(expected)


def test_one_sequence_has_no_interval_and_other_sequences_are_refused() -> None:
    assert np.isnan(score_intervals([davis_rows(np.array([0.5]))])["J&F"].low)
    with pytest.raises(ValueError, match=r"different sequences \(clip02"):
        difference_intervals([davis_rows(np.zeros(3))], [davis_rows(np.zeros(2))])


def write_results(root: Path, tables: dict[str, Rows]) -> Path:
    for encoder, rows in tables.items():
        write_table(root / encoder / "davis.parquet", rows, table_schema("davis"))
    return root


def test_the_command_counts_wins_and_seeds(tmp_path: Path) -> None:
    low, high = np.linspace(0.2, 0.6, 8), np.linspace(0.2, 0.6, 8) + 0.05
    high[0] = 0.1
    tables = {
        "crops": davis_rows(low),
        "crops_seed1": davis_rows(low),
        "s_ldm": davis_rows(high, "s_ldm"),
        "crops_seedling": davis_rows(high),
    }
    results = write_results(tmp_path, tables)
    done = CliRunner().invoke(app, ["propagation", "compare", "s_ldm", "crops", "--results", str(results), "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.output)["sets"]
    assert found["wins"] == {"first": 7, "second": 1, "tie": 0}
    assert found["seeds"] == [1, 2]
    value, low_end, high_end = found["difference"]["J&F"]
    assert value == pytest.approx(100 * (high.mean() - low.mean()))
    assert low_end < value < high_end
    shown = CliRunner().invoke(app, ["propagation", "compare", "s_ldm", "crops", "--results", str(results)])
    assert "J&F: s_ldm wins 7, crops wins 1, ties 0" in shown.output


def test_what_does_not_compare_is_refused(tmp_path: Path) -> None:
    regions = np.linspace(0.2, 0.6, 8)
    results = write_results(tmp_path, {"a": davis_rows(regions), "b": davis_rows(regions, top_k=5)})
    runner = CliRunner()
    other_protocol = runner.invoke(app, ["propagation", "compare", "a", "b", "--results", str(results)])
    assert "differ in protocol" in str(other_protocol.exception)
    unknown = runner.invoke(app, ["propagation", "compare", "a", "c", "--results", str(results)])
    assert "no tables of encoder 'c'; there are: a, b" in str(unknown.exception)
