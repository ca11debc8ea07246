"""Finding pairs by their scores, the strips of their bags, what a filter would keep, classes and sources compared."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.consistency.class_scores import score_classes
from cdgmae.consistency.consistency_summary import summarise
from cdgmae.consistency.data_set import score_tables
from cdgmae.consistency.query import Query, write_strips
from cdgmae.consistency.score_tables import METRICS, QUERY_COLUMNS, QUERY_SCHEMA, SCORE_SCHEMA
from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.consistency.source_comparison import compare_sources
from cdgmae.consistency.view_selection import count_kept, sweep_threshold
from cdgmae.settings.consistency import CropDrawSettings, ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.media.strips import FRAME_COLOUR, GAP
from cdgmae.storage.tables import write_table
from tests.consistency.drawn_bags import SIZE, bags, write_shard

ON_CPU = RuntimeSettings(device="cpu")

NUM_BAGS, NUM_VIEWS = 30, 3


def synthetic_rows(random: np.random.Generator, source: str, shard: int) -> list[dict[str, Any]]:
    """Bags of three views with random scores; a few pairs are bad."""
    rows: list[dict[str, Any]] = []
    for bag in range(NUM_BAGS):
        for view in range(1, NUM_VIEWS + 1):
            row: dict[str, Any] = {"key": f"k{shard}_{bag:03d}", "view_a": 0, "view_b": view, "source": source, "encoder": "abc"}
            row["class_name"] = None if bag % 5 == 4 else f"n{bag % 5}"
            if random.random() < 0.05:
                rows.append({**row, "status": "bad", "reason": "view: empty file"})
            else:
                rows.append({**row, "status": "ok", **{name: float(np.float32(random.random())) for name in METRICS}})
    return rows


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources with two tables each, and a summary that is no score table."""
    folder, random = tmp_path_factory.mktemp("results") / "consistency", np.random.default_rng(0)
    for source in ("knn", "s_ldm"):
        for shard in range(2):
            write_table(folder / source / f"{shard:05d}.parquet", synthetic_rows(random, source, shard), SCORE_SCHEMA)
    write_table(folder / "summary.parquet", [], SCORE_SCHEMA)
    return folder


@pytest.fixture(scope="module")
def frame(results: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(results.glob("*/*.parquet"))], ignore_index=True)


def test_tables_that_a_larger_number_of_shards_left_behind_do_not_count(
    results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "consistency"
    shutil.copytree(results, folder)
    tables = sorted(folder.glob("*/*.parquet"))
    summarise(tables[:1], folder / "summary.parquet", folder / "summary.csv")
    assert score_tables(folder) == [tables[0], *tables[2:]]  # of another source nothing is known
    assert score_tables(folder, "knn") == tables[:1]
    assert f"was not made from are left out, e.g. {tables[1]}" in caplog.text


def test_no_match_is_said_and_a_condition_may_begin_with_a_minus_sign(results: Path) -> None:
    def said(*words: str) -> str:
        return CliRunner().invoke(app, ["consistency", *words, "--results", str(results)], catch_exceptions=False).stdout

    assert said("query", "nps > 5") == f"No row of {4 * NUM_BAGS * NUM_VIEWS} matches the condition.\n"
    assert said("query", "-nps < -0.5", "--sort", "-nps") == said("query", "nps > 0.5", "--sort", "-nps")
    assert "kept_bags" in said("keep", "-nps < -0.5", "--source", "knn")


@pytest.mark.parametrize(
    "words", [("query", "nps > 0.5", "--limit", "3"), ("classes", "knn"), ("keep", "--sweep", "nps", "--source", "knn")]
)
def test_keys_and_headings_are_whole_at_80_columns(results: Path, words: tuple[str, ...]) -> None:
    line = ["consistency", *words, "--results", str(results)]
    narrow, wide = (CliRunner().invoke(app, line, env={"COLUMNS": columns}).stdout for columns in ("80", "400"))
    assert max(map(len, narrow.splitlines())) <= 80
    assert sorted(narrow.split()) == sorted(wide.split())


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_query_gives_what_pandas_gives(results: Path, frame: pd.DataFrame, descending: bool, limit: int) -> None:
    asked = Query(results, "nps < 0.5 and gs > 0.3", "s_ldm", "ls", descending)
    matches = asked.first(limit)
    wanted = frame.query("nps < 0.5 and gs > 0.3 and source == 's_ldm'").sort_values("ls", ascending=not descending)
    assert matches.total == len(wanted)
    assert [(row["key"], row["view_b"]) for row in matches.shown()] == list(
        zip(wanted["key"][:limit], wanted["view_b"][:limit], strict=True)
    )
    everything = pa.concat_tables(asked.all())
    assert everything.schema.names == list(QUERY_COLUMNS)
    assert everything["key"].to_pylist() == list(wanted["key"])


def test_query_without_an_order_follows_the_tables_of_all_sources(results: Path, frame: pd.DataFrame) -> None:
    matches = Query(results, "view_b == 2").first(70)
    wanted = frame.query("view_b == 2")
    assert matches.total == len(wanted) == 4 * NUM_BAGS
    assert matches.rows["key"].to_pylist() == list(wanted["key"][:70])
    assert set(matches.rows["source"].to_pylist()) == {"knn", "s_ldm"}


def test_bad_pairs_are_found_by_status_and_come_last_in_any_order(results: Path, frame: pd.DataFrame) -> None:
    bad = Query(results, "status == 'bad'").first(1000)
    assert bad.total == (frame["status"] == "bad").sum() > 3
    assert Query(results, "gs > -1").first(1000).total == (frame["status"] == "ok").sum()
    for descending in (False, True):
        everything = Query(results, "view_b > 0", None, "nps", descending).first(1000)
        assert [row["status"] for row in everything.shown()[-bad.total :]] == ["bad"] * bad.total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expression": "psnr > 1"}, "no column 'psnr'; columns: key, view_a"),
        ({"expression": "nearest_patches == 1"}, "no column 'nearest_patches'"),
        ({"expression": "nps"}, "is no comparison"),
        ({"expression": "nps < 1", "sort": "psnr"}, "--sort psnr: no such column"),
        ({"expression": "nps < 1", "limit": 0}, "--limit 0"),
        ({"expression": "nps < 1", "source": "rcg"}, r"no score tables of source 'rcg' \(scored sources: knn, s_ldm\)"),
    ],
)
def test_what_a_query_cannot_answer_is_said(results: Path, arguments: dict[str, Any], message: str) -> None:
    limit = arguments.pop("limit", 20)
    with pytest.raises(ValueError, match=message):
        Query(results, **arguments).first(limit)


def test_command_prints_a_table_csv_or_json(results: Path, frame: pd.DataFrame) -> None:
    runner = CliRunner(env={"COLUMNS": "140", "NO_COLOR": "1"})
    arguments = ["query", "nps < 0.5", "--source", "s_ldm", "--sort", "nps", "--limit", "3", "--results", str(results)]
    table, csv, as_json = (runner.invoke(app, ["consistency", *arguments, *more]).stdout for more in ([], ["--csv"], ["--json"]))
    wanted = frame.query("source == 's_ldm' and nps < 0.5").sort_values("nps")
    assert f"{len(wanted)} pairs match, 3 shown" in table
    assert "--output FILE give all of them" in table
    assert all(key in table for key in wanted["key"][:3])
    read = pd.read_csv(io.StringIO(csv))
    assert list(read.columns) == list(QUERY_COLUMNS)
    assert list(read["key"]) == list(wanted["key"][:3])
    answer = json.loads(as_json)
    assert (answer["matches"], [row["nps"] for row in answer["pairs"]]) == (len(wanted), list(wanted["nps"][:3]))


@pytest.mark.parametrize("order", [[], ["--sort", "-gs"]])
def test_csv_json_and_files_hold_all_pairs(results: Path, frame: pd.DataFrame, tmp_path: Path, order: list[str]) -> None:
    arguments = ["query", "view_a == 0", "--results", str(results), *order]
    wanted = list(frame.sort_values("gs", ascending=False, kind="stable")["key"] if order else frame["key"])
    assert len(wanted) > 100

    def run(*more: str) -> str:
        return CliRunner().invoke(app, ["consistency", *arguments, *more], catch_exceptions=False).stdout

    files = [tmp_path / name for name in ("all.csv", "all.json", "all.parquet")]
    said = [json.loads(run("--output", str(file), "--json")) for file in files]
    assert [answer["pairs"] for answer in said] == [len(wanted)] * 3
    read = [
        pd.read_csv(files[0]),
        pd.read_json(files[1], dtype={"key": str}),
        pd.read_parquet(files[2]),
        pd.read_csv(io.StringIO(run("--csv"))),
    ]
    for table in [*read, pd.DataFrame(json.loads(run("--json"))["pairs"])]:
        assert list(table["key"]) == wanted
        assert list(table.columns) == list(QUERY_COLUMNS)
        assert np.allclose(table["nps"].astype(float), read[2]["nps"], equal_nan=True)
    assert pq.read_schema(files[2]).remove_metadata() == QUERY_SCHEMA
    with pytest.raises(ValueError, match=r"all\.txt: the ending must be one of \.csv, \.json, \.parquet"):
        run("--output", str(tmp_path / "all.txt"))


def test_five_million_rows_answer_in_seconds(tmp_path: Path) -> None:
    """CPU seconds, so that other work on the machine does not count."""
    random, size = np.random.default_rng(0), 51_000
    columns: dict[str, Any] = {name: random.random(size, dtype=np.float32) for name in METRICS}
    columns |= {"key": np.repeat([f"n{index:08d}_{index}" for index in range(size // 4)], 4), "view_a": np.zeros(size, np.int32)}
    columns |= {"view_b": np.tile(np.arange(1, 5, dtype=np.int32), size // 4)}
    frame = pd.DataFrame(columns).assign(status="ok", source="s_ldm", encoder="abc", class_name=None)
    rows = SCORE_SCHEMA.empty_table().from_pandas(
        frame.assign(reason=None, nearest_patches=None, nearest_similarities=None), schema=SCORE_SCHEMA
    )
    first = tmp_path / "s_ldm" / "00000.parquet"
    write_table(first, rows, SCORE_SCHEMA)
    for shard in range(1, 98):
        shutil.copyfile(first, tmp_path / "s_ldm" / f"{shard:05d}.parquet")
    started = time.process_time()
    matches = Query(tmp_path, "nps < 0.5 and gs > 0.95", "s_ldm", "nps").first(20)
    assert time.process_time() - started < 5
    assert matches.total == 98 * len(frame.query("nps < 0.5 and gs > 0.95"))
    assert matches.shown()[0]["nps"] == frame.query("nps < 0.5 and gs > 0.95")["nps"].min()


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Tables of real bags and of their crops, beside the shards that they were made from."""
    real, views = bags(3, 2)
    tars = [
        write_shard(tmp_path / "shards" / "demo" / "00000.tar", real),
        write_shard(tmp_path / "views" / "s_ldm" / "00000.tar", views),
    ]
    folder, settings = tmp_path / "consistency", ScoringSettings(image_size=SIZE)
    score_shard(settings, *tars, parse_encoder("pixels:8"), folder / "s_ldm" / "00000.parquet", source="s_ldm", runtime=ON_CPU)
    crops = settings.model_copy(update={"crops": CropDrawSettings()})
    score_shard(
        crops, tars[0], None, parse_encoder("pixels:8"), folder / "crops" / "00000.parquet", source="crops", runtime=ON_CPU
    )
    return folder


def test_strips_show_the_bags_with_the_found_views_framed(scored: Path, tmp_path: Path) -> None:
    matches = Query(scored, "key == 'k1' and view_b == 2").first(10)
    assert matches.total == 2
    strips = write_strips(matches, scored, tmp_path / "strips")
    assert [path.name for path in strips] == ["001_crops_k1.png", "002_s_ldm_k1.png"]
    crops, bag = (np.asarray(Image.open(path)) for path in strips)
    assert crops.shape == (SIZE + 2 * GAP, 2 * SIZE + 3 * GAP, 3)
    assert bag.shape == (SIZE + 2 * GAP, 3 * SIZE + 4 * GAP, 3)
    third = 2 * (SIZE + GAP)
    assert tuple(bag[0, 0]) == (255, 255, 255)
    assert tuple(bag[0, third + 1]) == tuple(bag[SIZE // 2, -1]) == FRAME_COLOUR


def test_missing_images_are_said(scored: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "views")
    with pytest.raises(ValueError, match=r"images of .* are not there: no .*views/s_ldm/00000\.tar; leave out --images"):
        write_strips(Query(scored, "nps > -1", "s_ldm").first(20), scored, tmp_path / "strips")


@pytest.mark.parametrize("num_anchors", [1, 3])
def test_kept_bags_and_views_are_those_of_pandas(results: Path, frame: pd.DataFrame, num_anchors: int) -> None:
    result = count_kept(results, "nps >= 0.4 or gs > 0.9", "s_ldm", num_anchors)
    source = frame.query("source == 's_ldm'")
    per_bag = source.query("nps >= 0.4 or gs > 0.9").groupby("key").size()
    kept = per_bag[per_bag >= num_anchors]
    assert (result["bags"], result["views"], result["views_meeting"]) == (2 * NUM_BAGS, len(source), per_bag.sum())
    assert (result["kept_bags"], result["kept_views"]) == (len(kept), kept.sum())
    assert result["bags_by_kept_views"].get(0, 0) == 2 * NUM_BAGS - len(per_bag)
    assert sum(result["bags_by_kept_views"].values()) == 2 * NUM_BAGS


def test_a_sweep_says_for_every_limit_what_its_filter_keeps(results: Path) -> None:
    """The literal way: the filter of every row, counted alone."""
    for expression, num_anchors in ((None, 2), ("gs > 0.5 or ls > 0.9", 1)):
        swept = sweep_threshold(results, "nps", "s_ldm", num_anchors, expression)
        assert len(swept["thresholds"]) > 10
        for row in swept["thresholds"]:
            alone = count_kept(results, row["filter"], "s_ldm", num_anchors)
            assert {name: row[name] for name in row if name != "filter"} == {
                name: alone[name] for name in row if name != "filter"
            }
        assert (swept["bags"], swept["views"]) == (2 * NUM_BAGS, 2 * NUM_BAGS * NUM_VIEWS)
    shares = [row["kept_views_share"] for row in sweep_threshold(results, "gs", "s_ldm", 1)["thresholds"]]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (pytest.approx(0.95, abs=0.06), pytest.approx(0.05, abs=0.03))
    with pytest.raises(ValueError, match="--sweep psnr: no such score; allowed: gs"):
        sweep_threshold(results, "psnr", "s_ldm", 1)
    with pytest.raises(ValueError, match="no view meets gs > 2"):
        sweep_threshold(results, "nps", "s_ldm", 1, "gs > 2")


def test_keep_reports_from_the_shell_and_refuses_what_makes_no_sense(results: Path) -> None:
    runner = CliRunner()
    arguments = ["keep", "nps >= 0.4", "--source", "s_ldm", "--num-anchors", "2", "--results", str(results), "--json"]
    assert json.loads(runner.invoke(app, ["consistency", *arguments]).stdout)["num_anchors"] == 2
    shown = runner.invoke(app, ["consistency", "keep", "--sweep", "nps", "--source", "s_ldm", "--results", str(results)]).stdout
    assert "nps >= 0." in shown
    with pytest.raises(ValueError, match="--num-anchors 0"):
        count_kept(results, "nps > 0", "s_ldm", 0)
    with pytest.raises(ValueError, match="give a condition"):
        runner.invoke(app, ["consistency", "keep", "--source", "s_ldm", "--results", str(results)], catch_exceptions=False)


def test_classes_are_those_of_pandas(results: Path, frame: pd.DataFrame) -> None:
    table = score_classes(results, "knn").to_pandas()
    mine = frame.query("source == 'knn'").assign(class_name=frame["class_name"].fillna(""))
    by_class = mine.groupby("class_name")
    wanted = by_class[list(METRICS)].mean().sort_values("nps")
    assert list(table["class_name"]) == list(wanted.index)
    assert np.allclose(table[list(METRICS)], wanted)
    table = table.set_index("class_name")
    assert dict(table["bags"]) == dict(by_class["key"].nunique())
    assert dict(table["pairs"]) == dict(by_class.size())
    assert dict(table["bad"]) == dict(by_class["status"].agg(lambda states: (states == "bad").sum()))
    shown = CliRunner().invoke(app, ["consistency", "classes", "knn", "--results", str(results)], catch_exceptions=False).stdout
    assert "5 classes of knn, lowest NPS first" in shown


def test_two_sources_are_compared_key_by_key(results: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    means = {source: rows.groupby("key")[list(METRICS)].mean().dropna() for source, rows in frame.groupby("source")}
    both = means["s_ldm"].merge(means["knn"], left_index=True, right_index=True, suffixes=("_a", "_b"))
    compared = compare_sources(results, "s_ldm", "knn")
    assert (compared.bags, compared.only_first) == (len(both), len(means["s_ldm"]) - len(both))
    for metric, found in compared.metrics.items():
        ours, theirs = both[f"{metric}_a"], both[f"{metric}_b"]
        assert (found.first, found.second, found.difference) == pytest.approx(
            (ours.mean(), theirs.mean(), (ours - theirs).mean())
        )
        assert (found.wins_first, found.wins_second) == pytest.approx(
            ((ours > theirs + 1e-4).mean(), (theirs > ours + 1e-4).mean())
        )
        assert (found.pearson, found.spearman) == pytest.approx((ours.corr(theirs), ours.corr(theirs, method="spearman")))
        error = (ours - theirs).std() / len(both) ** 0.5
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    arguments = ["compare", "s_ldm", "knn", "--results", str(results), "--output", str(tmp_path / "keys.csv"), "--json"]
    answer = json.loads(CliRunner().invoke(app, ["consistency", *arguments], catch_exceptions=False).stdout)
    assert answer["metrics"]["nps"]["difference"] == compared.metrics["nps"].difference
    rows = pd.read_csv(tmp_path / "keys.csv").set_index("key")
    assert np.allclose(rows["ls_difference"], both["ls_a"] - both["ls_b"])


def test_sources_that_do_not_compare_are_refused(scored: Path, results: Path) -> None:
    result = compare_sources(scored, "s_ldm", "crops").summary()
    assert (result["bags"], result["only_first"], result["only_second"]) == (3, 0, 0)
    with pytest.raises(ValueError, match="compared with itself"):
        compare_sources(scored, "crops", "crops")
    table = scored / "knn" / "00000.parquet"
    write_table(table, synthetic_rows(np.random.default_rng(0), "knn", 0), SCORE_SCHEMA)
    with pytest.raises(ValueError, match="scored by different encoders or settings"):
        compare_sources(scored, "s_ldm", "knn")
    assert score_classes(scored, "crops").select(["class_name", "bags"]).sort_by("class_name").to_pylist() == [
        {"class_name": "", "bags": 2}, {"class_name": "beetle", "bags": 1},
    ]  # fmt: skip
    write_table(
        scored / "other" / "00000.parquet",
        [{**row, "class_name": None} for row in synthetic_rows(np.random.default_rng(0), "other", 7)],
        SCORE_SCHEMA,
    )
    with pytest.raises(ValueError, match="no pair of source 'other' has a class"):
        score_classes(scored, "other")
    with pytest.raises(ValueError, match="knn and other have no key in common"):
        compare_sources(scored, "knn", "other")
