"""The paper's tables in the configuration: rows by name, overlays on the paper's settings, all seeds of a run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdgmae.config import Config, ConfigError, check_config
from cdgmae.paper import PAPER_TABLES
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.workflow import consistency, encoders, propagation, report

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "workflow/experiments"
DEMO: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
OVERLAYS = sorted(PAPER_TABLES)

UNFILLED = {"table5": {"mae_st"}, "figure4": {"siammae_16", "siammae_8"}}
"""Rows that an overlay leaves to its reader, because they need weights from elsewhere; its comment says so."""


def merged(base: Any, overlay: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return overlay
    return {**base, **{key: merged(base.get(key), value) for key, value in overlay.items()}}


def paper(*overlays: str) -> Config:
    values: Any = {}
    for name in ("paper", *overlays):
        values = merged(values, yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text()))
    return check_config(values)


def demo(**report_tables: Any) -> dict[str, Any]:
    values = copy.deepcopy(DEMO)
    values["report"]["tables"] = report_tables
    return values


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_fills_its_table_and_leaves_the_papers_runs_alone(name: str) -> None:
    plain, config = paper(), paper(name)
    rows = config.report.tables[name]
    assert set(PAPER_TABLES[name].rows) - set(rows) == UNFILLED.get(name, set())
    assert set(plain.report.tables[name].items()) <= set(rows.items())
    assert {run: config.pretrain.runs[run] for run in plain.pretrain.runs} == plain.pretrain.runs
    for filled in report.table_rows(config, name).values():
        assert filled


def test_all_overlays_together_are_one_configuration() -> None:
    config = paper(*OVERLAYS)
    assert all(set(config.report.tables[name]) >= set(PAPER_TABLES[name].rows) - UNFILLED.get(name, set()) for name in OVERLAYS)


def test_runs_of_table_4_are_its_rows() -> None:
    config = paper("table4")
    found = {}
    for row, encoder in config.report.tables["table4"].items():
        run = config.pretrain.runs[config.propagation.encoders[encoder].run or ""]
        found[row] = (run.num_anchors, run.anchor_masking_ratio)
        assert (run.epochs, run.effective_batch_size, run.target_masking_ratio, run.source) == (100, 2048, 0.9, "s_ldm")
    assert found == {
        "a1": (1, 0.0), "a2": (2, 0.0), "a2_r25": (2, 0.25), "a2_r50": (2, 0.5), "a3_r25": (3, 0.25), "a3_r50": (3, 0.5),
    }  # fmt: skip


def test_runs_of_table_8_are_those_whose_operations_are_counted() -> None:
    config = paper("table8")
    for row, encoder in config.report.tables["table8"].items():
        run = config.pretrain.runs[config.propagation.encoders[encoder].run or ""]
        assert PAPER_TABLES["table8"].rows[row].run == {key: getattr(run, key) for key in ("num_anchors", "anchor_masking_ratio")}


def test_warm_up_is_a_twentieth_of_each_runs_epochs() -> None:
    runs = paper("figure9").pretrain.runs
    warm_up = {name: runs[name].warmup_epochs for name in ("cdg_a1", "cropmae", "cropmae_200", "cropmae_400")}
    assert warm_up == {"cdg_a1": 5.0, "cropmae": 5.0, "cropmae_200": 10.0, "cropmae_400": 20.0}
    assert PretrainRunSettings.from_plain({"epochs": 6}).warmup_epochs == pytest.approx(0.3)
    assert PretrainRunSettings.from_plain({"epochs": 400, "warmup_epochs": 1}).warmup_epochs == 1.0


def test_runs_of_table_3_and_the_figures_differ_where_the_paper_says() -> None:
    config = paper("table3_target", "table3_masking", "figure4", "figure9")
    runs = config.pretrain.runs
    assert [runs[f"target_{name}"].target_view for name in ("real", "generated", "knn")] == ["real", "generated", "random"]
    assert runs["target_knn"].source == "knn"
    assert [runs[name].target_masking_ratio for name in ("masking_75", "cdg_a1", "masking_98_5")] == [0.75, 0.9, 0.985]
    assert (runs["cdg_8"].patch_size, runs["cdg_8"].embed_dim, runs["cropmae_8"].patch_size) == (8, 384, 8)
    for name, changed in (
        ("cropmae_8", {"architecture", "patch_size"}),
        ("cropmae_200", {"epochs", "warmup_epochs"}),
        ("cropmae_400", {"epochs", "warmup_epochs"}),
    ):
        ours, theirs = runs[name].model_dump(), runs["cropmae"].model_dump()
        assert {key for key in ours if ours[key] != theirs[key]} == changed


def test_a_row_of_a_run_stands_for_all_its_seeds() -> None:
    jobs = paper()
    assert report.table_rows(jobs, "table4") == {
        "a1": ["cdg_a1", "cdg_a1_seed1", "cdg_a1_seed2"], "a3_r25": ["cdg_a3", "cdg_a3_seed1", "cdg_a3_seed2"],
    }  # fmt: skip
    assert encoders.encoder_files(propagation.judged_encoder(jobs, "cdg_a3_seed2")) == [
        "results/pretrain/cdg_a3/seed2/encoder.safetensors"
    ]
    assert len(report.table_inputs(jobs, "table4")) == len(set(report.table_inputs(jobs, "table4"))) == 18
    assert not any("_seed" in table for table in propagation.propagation_tables(jobs))
    with pytest.raises(ConfigError, match=r"no encoder 'cdg_a3_seed3'.*cdg_a3_seed2"):
        propagation.judged_encoder(jobs, "cdg_a3_seed3")


def test_rows_of_sources_need_their_scores_alone_and_tables_without_rows_nothing() -> None:
    jobs = check_config(DEMO)
    assert report.table_inputs(jobs, "table1") == [
        "results/consistency/s_ldm/00000.parquet",
        "results/consistency/s_ldm/00001.parquet",
    ]
    assert report.named_tables(check_config(demo())) == []
    assert report.table_inputs(check_config(demo()), "table4") == []


def test_the_demo_needs_nothing_for_its_tables_that_it_does_not_make_anyway() -> None:
    jobs = check_config(DEMO)
    made = {*propagation.propagation_tables(jobs), *consistency.all_score_tables(jobs)}
    assert {file for name in PAPER_TABLES for file in report.table_inputs(jobs, name)} <= made
    assert set(DEMO["report"]["tables"]) == set(OVERLAYS)


def test_tables_do_not_change_what_the_page_is_made_from() -> None:
    assert report.report_settings(check_config(DEMO)) == report.report_settings(check_config(demo()))


REFUSED = [
    ({"table44": {}}, r"report: tables\.table44: no such table; allowed: table1, .*did you mean 'table4'"),
    ({"table4": {"a2_r20": "cdg"}}, r"tables\.table4\.a2_r20: no such row; allowed: a1, a2, a2_r25.*did you mean 'a2_r2?5?0?'"),
    ({"table8": {"a5": "cdg"}}, r"tables\.table8\.a5: no such row; allowed: a1, a2, .*a4_r25, a4_r50"),
    ({"table4": {"a1": "cgd"}}, r"report\.tables\.table4\.a1 = 'cgd': no such name; allowed: random, crops, cdg .*'cdg'"),
    ({"table1": {"s_ldm": "cdg"}}, r"report\.tables\.table1\.s_ldm = 'cdg': no such name; allowed: crops, s_ldm"),
]


@pytest.mark.parametrize(("tables", "message"), REFUSED)
def test_unknown_names_are_refused_with_what_is_allowed(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(demo(**tables))


def test_a_name_cannot_stand_for_two_encoders() -> None:
    values = demo(table4={"a1": "cdg"})
    values["pretrain"]["seeds"] = [0, 1]
    values["propagation"]["encoders"]["cdg_seed1"] = {"run": "cdg", "seed": 1}
    check_config(values)
    values["propagation"]["encoders"]["cdg_seed1"] = {"run": "crops"}
    with pytest.raises(ConfigError, match=r"propagation\.encoders\.cdg_seed1: this name stands for seed 1 of encoder 'cdg'"):
        check_config(values)
