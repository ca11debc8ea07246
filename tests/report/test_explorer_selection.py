"""Which bags the explorer shows, held against a literal restatement of its rules over all rows in plain Python."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cdgmae.consistency.consistency_summary import summarise
from cdgmae.consistency.score_tables import SCORE_SCHEMA
from cdgmae.report.pages.explorer.bag_selection import RULES, SourceChoice, choose_source
from cdgmae.report.stages import score_tables
from cdgmae.runtime.seeds import integer_seed
from cdgmae.storage.tables import read_table, write_table

METRICS = ("gs", "ls", "nps")
Rows = list[dict[str, Any]]


def made_up_rows(
    source: str, num_bags: int, *, views: tuple[tuple[int, int], ...] = ((0, 1), (0, 2)), patches: bool = True
) -> Rows:
    """Rows with many equal scores, a bad pair in every seventh bag, nothing but bad pairs in every eleventh, and few stored patches."""
    random = np.random.default_rng(len(source) + num_bags)
    rows: Rows = []
    for bag in range(num_bags):
        for view_a, view_b in views:
            bad = bag % 11 == 5 or (bag % 7 == 3 and view_b == views[-1][1])
            scores = dict.fromkeys((*METRICS, "nps_reverse"), None) if bad else {
                metric: float(np.float32(random.integers(1, 20) / 20)) for metric in (*METRICS, "nps_reverse")
            }  # fmt: skip
            stored = (
                {"nearest_patches": [0, 1], "nearest_similarities": [0.5, 0.5]} if patches and bag % 4 == 0 and not bad else {}
            )
            rows.append({
                "key": f"{source}_{bag:04d}", "view_a": view_a, "view_b": view_b, **scores, "status": "bad" if bad else "ok",
                "reason": "broken" if bad else None, "source": source, "encoder": "abc", **stored,
            })  # fmt: skip
    return rows


def write_scores(results: Path, source: str, rows: Rows, num_tables: int) -> dict[str, Any]:
    """Rows spread over tables by bag, and the source's row of the summary."""
    keys = sorted({row["key"] for row in rows})
    tables = []
    for number in range(num_tables):
        mine = set(keys[number::num_tables])
        tables.append(results / "consistency" / source / f"{number:05d}.parquet")
        write_table(
            tables[-1],
            [row for row in rows if row["key"] in mine],
            SCORE_SCHEMA,
            extra={"source": source, "kind": source, "image_size": 16},
        )
    summarise(tables, results / "summary.parquet", results / "summary.csv")
    summary: dict[str, Any] = read_table(results / "summary.parquet").to_pylist()[0]
    return summary


def draw_of(key: str) -> int:
    """The draw of one bag, by itself."""
    hash_key = f"{integer_seed(0, 'report/consistency', 'bags'):016x}"
    return int(pd.util.hash_array(np.array([key], dtype=object), hash_key=hash_key, categorize=False)[0])


def restated(rows: Rows, summary: dict[str, Any], quota: int) -> dict[str, set[str]]:
    """Key -> rules, by sorting all bags again for every rule."""
    good = [row for row in rows if row["status"] == "ok"]
    if any(row["view_a"] == 0 for row in good):
        good = [row for row in good if row["view_a"] == 0]
    keys = sorted({row["key"] for row in good})
    means = {
        key: {metric: statistics.fmean(row[metric] for row in good if row["key"] == key) for metric in METRICS} for key in keys
    }

    def disagreement(key: str) -> float:
        deviations = [(means[key][metric] - summary[f"{metric}_mean"]) / summary[f"{metric}_std"] for metric in METRICS]
        return max(deviations) - min(deviations)

    ranked = {
        "lowest": sorted(keys, key=lambda key: means[key]["nps"]),
        "highest": sorted(keys, key=lambda key: -means[key]["nps"]),
        "disagree": sorted(keys, key=lambda key: -disagreement(key)),
        "random": sorted(keys, key=draw_of),
    }
    chosen: dict[str, set[str]] = {}
    for rule, order in ranked.items():
        for key in order[:quota]:
            chosen.setdefault(key, set()).add(rule)
    stored = {row["key"] for row in good if row.get("nearest_patches")}
    left = [key for key in ranked["random"] if key in stored and key not in chosen]
    return chosen | {key: {"patches"} for key in left[:quota]}


def as_sets(choice: SourceChoice) -> dict[str, set[str]]:
    assert len({bag.key for bag in choice.bags}) == len(choice.bags)
    return {bag.key: set(bag.rules) for bag in choice.bags}


@pytest.mark.parametrize("quota", [1, 6, 25])
@pytest.mark.parametrize(
    ("views", "patches"),
    [(((0, 1), (0, 2)), True), (((0, 1), (0, 2), (1, 2)), True), (((1, 2), (3, 4)), False)],
    ids=["views", "all", "crops"],
)
def test_bags_are_chosen_as_the_rules_say(tmp_path: Path, quota: int, views: tuple[tuple[int, int], ...], patches: bool) -> None:
    rows = made_up_rows("s_ldm", 120, views=views, patches=patches)
    summary = write_scores(tmp_path, "s_ldm", rows, num_tables=3)
    choice = choose_source(score_tables(tmp_path, "s_ldm", 9), summary, quota, sample_size=30)
    assert choice is not None
    assert as_sets(choice) == restated(rows, summary, quota)
    assert choice.num_bags == len({row["key"] for row in rows if row["status"] == "ok"})
    assert {rule for bag in choice.bags for rule in bag.rules} == set(RULES) - (set() if patches else {"patches"})


def test_what_each_rule_puts_first_comes_first_and_every_table_is_named(tmp_path: Path) -> None:
    summary = write_scores(tmp_path, "s_ldm", made_up_rows("s_ldm", 60), num_tables=2)
    choice = choose_source(score_tables(tmp_path, "s_ldm", 9), summary, 5, 10)
    assert choice is not None
    assert {rule for bag in choice.bags[:5] for rule in bag.rules} == set(RULES)
    for bag in choice.bags:
        assert bag.key in read_table(bag.table, ["key"])["key"].to_pylist()


def test_choice_and_sample_do_not_depend_on_how_bags_are_spread_over_tables(tmp_path: Path) -> None:
    rows = made_up_rows("s_ldm", 90)
    choices = []
    for num_tables in (1, 4):
        folder = tmp_path / str(num_tables)
        summary = write_scores(folder, "s_ldm", rows, num_tables)
        choices.append(choose_source(score_tables(folder, "s_ldm", num_tables), summary, 6, 20))
    assert choices[0] is not None
    assert choices[1] is not None
    assert [(bag.key, bag.rules) for bag in choices[0].bags] == [(bag.key, bag.rules) for bag in choices[1].bags]
    assert choices[0].sample == choices[1].sample
    assert {len(values) for values in choices[0].sample.values()} == {20}


def test_random_bags_are_the_first_of_the_sample_and_of_the_same_keys_in_every_source(tmp_path: Path) -> None:
    chosen = []
    for source in ("s_ldm", "rcg"):
        rows = [{**row, "key": row["key"].replace(source, "n"), "source": source} for row in made_up_rows(source, 90)]
        summary = write_scores(tmp_path / source, source, rows, 1)
        choice = choose_source(score_tables(tmp_path / source, source, 1), summary, 8, 40)
        assert choice is not None
        chosen.append({bag.key: bag.scores["nps"] for bag in choice.bags if "random" in bag.rules})
        assert chosen[-1] == dict(zip(choice.sample["key"][:8], choice.sample["nps"][:8], strict=True))
    assert set(chosen[0]) == set(chosen[1])


def test_a_source_without_tables_or_without_scored_pairs_has_no_choice(tmp_path: Path) -> None:
    rows = [row for row in made_up_rows("s_ldm", 60) if row["status"] == "bad"]
    summary = write_scores(tmp_path, "s_ldm", rows, 1)
    assert choose_source(score_tables(tmp_path, "s_ldm", 9), summary, 3, 3) is None
    assert choose_source([], summary, 3, 3) is None


def test_tables_of_earlier_versions_without_stored_similarities_are_read(tmp_path: Path) -> None:
    summary = write_scores(tmp_path, "s_ldm", made_up_rows("s_ldm", 40), 1)
    path = tmp_path / "consistency" / "s_ldm" / "00000.parquet"
    table = read_table(path).drop_columns("nearest_similarities")
    pq.write_table(table, path)
    choice = choose_source(score_tables(tmp_path, "s_ldm", 9), summary, 3, 3)
    assert choice is not None
    assert any("patches" in bag.rules for bag in choice.bags)
