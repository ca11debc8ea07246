"""Changing one config key reruns exactly the stages that depend on it."""

from __future__ import annotations

import pytest

from tests.workflow.conftest import Workplace, set_key, tiny_config

pytestmark = pytest.mark.slow

SUMMARIES = {"propagate_labels", "summarise_propagation", "write_report", "write_table"}
AFTER_VIEWS = {"score_views", "summarise_consistency", "pretrain_encoder"} | SUMMARIES
AFTER_ENCODER = {"train_generator", "make_views"} | AFTER_VIEWS

CHANGES = [
    ("pretrain.runs.cdg.anchor_masking_ratio", 0.5, {"pretrain_encoder"} | SUMMARIES),
    ("pretrain.defaults.target_masking_ratio", 0.75, {"pretrain_encoder"} | SUMMARIES),
    ("pretrain.runs.conditioning.target_masking_ratio", 0.75, AFTER_ENCODER),
    ("views.sources.s_ldm.sampling.guidance_scale", 2.0, {"make_views"} | AFTER_VIEWS),
    ("views.generators.s_ldm.train.num_steps", 5, AFTER_ENCODER),
    ("consistency.image_size", 96, {"score_views", "summarise_consistency", "write_report", "write_table"}),
    ("propagation.datasets.davis.top_k", 5, SUMMARIES),
    ("report.title", "Another title", {"write_report"}),
    ("shards.datasets.demo.jpeg_quality", 80, {"write_manifest", "write_shard", "summarise_shards"} | AFTER_ENCODER),
    ("shards.datasets.demo.max_bad_fraction", 0.5, {"summarise_shards", "write_report"}),
    ("runtime.threads", 2, set()),
    ("runtime.precision", "bf16", set()),
    ("runtime.device", "cpu", set()),
]


@pytest.mark.parametrize(("key", "value", "expected"), CHANGES, ids=[key for key, _, _ in CHANGES])
def test_changed_key_reruns_its_dependents_only(finished: Workplace, key: str, value: object, expected: set[str]) -> None:
    finished.write_config(set_key(tiny_config(), key, value))
    try:
        planned = finished.planned_jobs()
    finally:
        finished.write_config(tiny_config())
    assert set(planned) == expected


def test_changed_masking_of_one_run_trains_that_run_only(finished: Workplace) -> None:
    finished.write_config(set_key(tiny_config(), "pretrain.runs.cdg.anchor_masking_ratio", 0.5))
    try:
        planned = finished.planned_jobs()
    finally:
        finished.write_config(tiny_config())
    assert planned["pretrain_encoder"] == 1
    assert planned["propagate_labels"] == 3


def test_unchanged_config_has_nothing_to_do(finished: Workplace) -> None:
    assert finished.planned_jobs() == {}


@pytest.mark.parametrize("stage", ["shards", "views", "consistency", "pretrain", "propagation", "report"])
def test_every_stage_is_a_target(finished: Workplace, stage: str) -> None:
    done = finished.run("--dry-run", stage)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Nothing to be done" in done.stdout + done.stderr or f"{stage} " in done.stdout + done.stderr
