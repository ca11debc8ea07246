"""The contract of score tables, their summary, and what `cdgmae consistency` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.config import load_config
from cdgmae.consistency.consistency_summary import SUMMARY_SCHEMA, summarise
from cdgmae.consistency.score_display import histogram_line, read_display
from cdgmae.consistency.score_tables import COMPARED, METRICS, SCORE_SCHEMA, check_scores
from cdgmae.paper import PAPER_TABLES
from cdgmae.storage.tables import read_table, write_table
from cdgmae.workflow.consistency import summary_settings

ROOT = Path(__file__).parents[2]


def score_row(key: str, view: int, value: float | None, **changes: Any) -> dict[str, Any]:
    scores = dict.fromkeys(METRICS, value)
    status, reason = ("ok", None) if value is not None else ("bad", "view: empty file")
    common = {"key": key, "view_a": 0, "view_b": view, "status": status, "reason": reason, "source": "s_ldm", "encoder": "abc"}
    return {**common, **scores, **changes}


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCORE_SCHEMA)


def write_scores(folder: Path, source: str, shard: int, values: list[float | None], encoder: str = "abc") -> Path:
    rows = [score_row(f"k{index:03d}", 1, value, source=source, encoder=encoder) for index, value in enumerate(values)]
    path = folder / source / f"{shard:05d}.parquet"
    write_table(path, rows, SCORE_SCHEMA, extra={"source": source})
    return path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([score_row("b", 1, 0.5), score_row("a", 1, 0.5)], "unique and sorted"),
        ([score_row("a", 1, 0.5), score_row("a", 1, 0.5)], "unique and sorted"),
        ([score_row("a", 1, 1.00001)], r"gs = 1.00\d+ of a, views 0 and 1"),
        ([score_row("a", 1, 0.5, ls=-1.2)], r"ls = -1.2\d* of a"),
        ([score_row("a", 1, 0.5, nps=float("nan"))], "nps = nan.*not finite"),
        ([score_row("a", 1, 0.5, nps_reverse=None)], "nps_reverse = None"),
        ([score_row("a", 1, None, gs=0.3)], "bad row has a value of gs"),
        ([score_row("a", 1, None, reason=None)], "no reason"),
        ([score_row("a", 1, 0.5, status="skipped")], "'skipped'.*allowed: ok, bad"),
    ],
)
def test_tables_that_break_the_contract_are_refused(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_scores(table_of(*rows))


def test_bounds_and_bad_rows_are_allowed() -> None:
    check_scores(table_of(score_row("a", 1, 1.0), score_row("a", 2, -1.0), score_row("b", 1, None)))


def test_summary_equals_pandas_over_all_shards(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shards: list[list[float | None]] = [[float(value) for value in random.uniform(-1, 1, 40)] + [None] for _ in range(3)]
    paths = [write_scores(tmp_path, "s_ldm", shard, values) for shard, values in enumerate(shards)]
    paths.append(write_scores(tmp_path, "random", 0, [0.25, 0.75]))
    result = summarise(paths[::-1], tmp_path / "summary.parquet", tmp_path / "summary.csv")
    table = pq.read_table(tmp_path / "summary.parquet")
    assert table.schema.remove_metadata() == SUMMARY_SCHEMA
    first, second = table.to_pylist()
    assert (first["source"], first["pairs"], first["bad"], first["nps_mean"], first["nps_std"]) == ("random", 2, 0, 0.5, 0.25)
    values = pd.Series([np.float32(value) for shard in shards for value in shard if value is not None], dtype="float64")
    assert (second["source"], second["pairs"], second["bad"], second["encoder"]) == ("s_ldm", 123, 3, "abc")
    for metric in METRICS:
        assert second[f"{metric}_mean"] == pytest.approx(values.mean(), abs=1e-7)
        assert second[f"{metric}_std"] == pytest.approx(values.std(ddof=0), abs=1e-7)
        assert [second[f"{metric}_q{q}"] for q in ("05", "50", "95")] == pytest.approx(
            list(values.quantile([0.05, 0.5, 0.95])), abs=1e-6
        )
    assert (result["sources"], result["pairs"], result["bad"]) == (2, 125, 3)
    csv = pd.read_csv(tmp_path / "summary.csv")
    assert list(csv.columns) == SUMMARY_SCHEMA.names
    assert csv["nps_mean"][1] == pytest.approx(second["nps_mean"], rel=1e-5)


def test_sources_without_a_scored_pair_keep_their_row(tmp_path: Path) -> None:
    paths = [write_scores(tmp_path, "empty", 0, []), write_scores(tmp_path, "broken", 0, [None, None])]
    summarise(paths, tmp_path / "summary.parquet", tmp_path / "summary.csv")
    rows = pq.read_table(tmp_path / "summary.parquet").to_pylist()
    assert [(row["source"], row["pairs"], row["bad"], row["gs_mean"]) for row in rows] == [
        ("broken", 2, 2, None),
        ("empty", 0, 0, None),
    ]


def test_scores_of_different_encoders_are_not_mixed(tmp_path: Path) -> None:
    paths = [write_scores(tmp_path, "s_ldm", 0, [0.5], "abc"), write_scores(tmp_path, "s_ldm", 1, [0.5], "def")]
    with pytest.raises(ValueError, match=r"'s_ldm' was scored by different encoders or settings \(abc, def\)"):
        summarise(paths, tmp_path / "summary.parquet", tmp_path / "summary.csv")


def test_no_tables_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no score tables"):
        summarise([], tmp_path / "summary.parquet", tmp_path / "summary.csv")


def test_papers_tables_agree_with_each_other() -> None:
    first, ninth = ({row.kind: row for row in PAPER_TABLES[name].rows.values()} for name in ("table1", "table9"))
    assert all(first[kind].printed == ninth[kind].printed for kind in ("video", "s_ldm"))
    scores = [{metric: row.printed[metric].value for metric in COMPARED} for row in (*first.values(), *ninth.values())]
    assert all(row["ls"] < row["nps"] < row["gs"] for row in scores)


def test_tables_are_summarised_by_source_and_number_and_no_others(tmp_path: Path) -> None:
    for shard, value in enumerate([0.25, 0.75, 0.99]):
        write_scores(tmp_path, "s_ldm", shard, [value])
    write_scores(tmp_path, "foreign", 0, [0.5])
    arguments = ["summarise", "--results", str(tmp_path), "--output", str(tmp_path / "summary.parquet"), "--settings"]
    made = CliRunner().invoke(app, ["consistency", *arguments, '{"num_shards": {"s_ldm": 2}}'])
    assert made.exit_code == 0, made.output
    rows = read_table(tmp_path / "summary.parquet").to_pylist()
    assert [(row["source"], row["pairs"], row["nps_mean"]) for row in rows] == [("s_ldm", 2, pytest.approx(0.5))]
    with pytest.raises(ValueError, match=r"s_ldm/00003\.parquet"):
        CliRunner().invoke(app, ["consistency", *arguments, '{"num_shards": {"s_ldm": 4}}'], catch_exceptions=False)
    command = summary_settings(load_config(ROOT / "config.yaml")).canonical_json()
    assert command == '{"num_shards":{"s_ldm":2}}'


def test_show_prints_ours_the_papers_and_a_histogram(tmp_path: Path) -> None:
    runner = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"})
    paths = [str(write_scores(tmp_path, "s_ldm", shard, [0.25, 0.5, 0.5, None])) for shard in range(2)]
    made = runner.invoke(app, ["consistency", "summarise", "--output", str(tmp_path / "summary.parquet"), *paths, "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.output.splitlines()[-1])["pairs"] == 8
    shown = runner.invoke(app, ["consistency", "show", "--results", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "0.417 ± 0.118" in shown.output
    for expected in ("s_ldm", "paper, Table 1", "0.885", "RCG S-LDM", "0.735", "█", "0.250", "0.500"):
        assert expected in shown.output
    as_json = json.loads(
        runner.invoke(app, ["consistency", "show", "--results", str(tmp_path), "--json"]).output.splitlines()[-1]
    )
    assert sum(as_json["histograms"]["s_ldm"]) == 6


@pytest.mark.parametrize("columns", [None, "80"])
def test_show_is_whole_in_a_pipe_and_at_80_columns(tmp_path: Path, columns: str | None) -> None:
    paths = [write_scores(tmp_path, "a_source_with_a_long_name", 0, [0.25, 0.5, 0.5, None])]
    summarise(paths, tmp_path / "summary.parquet", tmp_path / "summary.csv")
    shown = (
        CliRunner(env={"COLUMNS": columns, "NO_COLOR": "1"})
        .invoke(app, ["consistency", "show", "--results", str(tmp_path)])
        .stdout
    )
    assert "\u2026" not in shown
    words = {"a_source_with_a_long_name", "reverse", "video", "0.417", "±", "0.118", "Video", "0.991", "0.5000"}
    assert words <= set(shown.split())
    if columns is None:
        assert any({"a_source_with_a_long_name", "0.417", "±", "0.118"} <= set(line.split()) for line in shown.splitlines())


def test_show_says_what_is_missing_or_unknown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"summary\.parquet does not exist; run"):
        read_display(tmp_path)
    with pytest.raises(ValueError, match="allowed: gs, ls, nps, nps_reverse"):
        read_display(tmp_path, "psnr")


def test_histogram_shows_every_bin_that_holds_a_pair() -> None:
    assert histogram_line([0, 1, 1000, 500]) == " ▁█▄"
    assert histogram_line([]) == ""
