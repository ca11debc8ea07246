"""What a changed key makes again: that, and what must follow."""

from __future__ import annotations

import itertools

import pytest

from tests.workflow.conftest import Workplace, set_key
from tests.workflow.finished_tree import configured, like, photos_config, with_what_follows
from tests.workflow.planning import planned

CHANGES = {
    "seed": (1, [r"write_manifest photos", r"train_generator s_ldm"]),
    "shards.datasets.photos.resize": ("center_crop", [r"write_shard photos \d+"]),
    "shards.datasets.photos.jpeg_quality": (80, [r"write_shard photos \d+"]),
    "shards.datasets.photos.max_bad_fraction": (0.5, []),
    "views.generators.s_ldm.train.num_steps": (5, [r"train_generator s_ldm"]),
    "views.sources.s_ldm.sampling.guidance_scale": (2.0, [r"make_views s_ldm \d+"]),
    "views.sources.s_ldm.sampling.num_views": (3, [r"make_views s_ldm \d+"]),
    "views.sources.s_ldm.sampling.batch_size": (8, []),
    "views.sources.s_ldm.sampling.max_bad_fraction": (0.5, []),
    "views.sources.near.image_size": (32, [r"embed_images near \d+"]),
    "views.sources.near.num_views": (1, [r"gather_views near \d+"]),
    "views.sources.near.duplicate_similarity": (0.9, [r"gather_views near \d+"]),
    "views.sources.far.num_views": (1, [r"gather_views far \d+"]),
    "views.sources.near.max_bad_fraction": (0.5, []),
    "consistency.image_size": (96, [r"score_views \w+ \d+"]),
    "consistency.batch_size": (8, []),
    "consistency.max_bad_fraction": (0.5, []),
    "consistency.encoder": ({"pixels": 8}, [r"score_views \w+ \d+"]),
    "pretrain.defaults.epochs": (3, [r"pretrain_encoder \w+ 0"]),
    "pretrain.runs.cdg.anchor_masking_ratio": (0.5, [r"pretrain_encoder cdg 0"]),
    "pretrain.runs.crops.target_masking_ratio": (0.5, [r"pretrain_encoder crops 0"]),
    "pretrain.runs.conditioning.target_masking_ratio": (0.5, [r"pretrain_encoder conditioning 0"]),
    "pretrain.runs.chosen.view_filter": ("nps > 0.6", [r"pretrain_encoder chosen 0"]),
    "propagation.datasets.davis.top_k": (5, [r"propagate_labels \w+ davis"]),
    "propagation.datasets.jhmdb.radius": (7, [r"propagate_labels \w+ jhmdb"]),
    "propagation.encoders.crops": ({"pixels": 8}, [r"propagate_labels crops \w+"]),
    "report.title": ("Another title", [r"write_report"]),
    "runtime.threads": (2, []),
    "runtime.precision": ("bf16", []),
}  # fmt: skip
"""Key -> another value and the jobs of which it is a setting; what follows is planned, too."""


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_key_reruns_what_depends_on_it_and_nothing_else(tree: Workplace, jobs: dict[str, list[str]], key: str) -> None:
    value, patterns = CHANGES[key]
    with configured(tree, set_key(photos_config(), key, value)):
        assert planned(tree) == with_what_follows(like(jobs, *patterns), jobs)


@pytest.mark.slow
def test_two_changed_keys_plan_what_each_of_them_plans_in_one_call(tree: Workplace) -> None:
    effective = {key: value for key, (value, patterns) in CHANGES.items() if patterns}
    single = {}
    for key, value in effective.items():
        with configured(tree, set_key(photos_config(), key, value)):
            single[key] = planned(tree)
    wrong = {}
    for first, second in itertools.combinations(effective, 2):
        config = set_key(set_key(photos_config(), first, effective[first]), second, effective[second])
        with configured(tree, config):
            missing = (single[first] | single[second]) - planned(tree)
        if missing:
            wrong[first, second] = sorted(missing)
    assert wrong == {}
