"""Values, filters and keys that no run could work with are refused, with key and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cdgmae.config import ConfigError, check_config, load_config, read_files
from cdgmae.workflow.named_files import check_run
from tests.settings.demo_config import DEMO, ROOT, changed

REFUSED = [
    ("shards.datasets.demo.num_shard", 4, r"shards\.datasets\.demo\.num_shard: unknown key; .*did you mean 'num_shards'"),
    ("shards.datasets.demo.num_shards", "4", r"num_shards = '4': input should be a valid integer"),
    ("shards.datasets.demo.num_shards", 0, r"num_shards = 0: input should be greater than or equal to 1"),
    ("shards.datasets.demo.resize", "stretch", r"resize = 'stretch': input should be 'none', 'shorter_side' or 'center_crop'"),
    ("shards.datasets.bad/name", {"path": "x"}, r"bad/name"),
    ("views.sources.s_ldm.generator", "s_ldn", r"generator = 's_ldn': no such name; allowed: s_ldm \(did you mean 's_ldm'"),
    ("views.sources.s_ldm.dataset", "imagenet", r"dataset = 'imagenet': no such name; allowed: demo"),
    ("views.sources.crops.sampling", {"num_views": 2}, r"sources\.crops\.sampling: unknown key; allowed: dataset, kind"),
    ("views.sources.s_ldm.sampling.guidance", 6, r"sampling\.guidance: unknown key; .*did you mean 'guidance_scale'"),
    ("views.sources.s_ldm.sampling.guidance_interval", [0.2, 0.8], r"guidance_interval is gone: .*remove the key, and for fewer steps"),
    ("views.sources.s_ldm.sampling.reuse_interval", 2, r"s_ldm.*reuse_interval is gone: .*scheduler: dpm_solver with num_inference_steps"),
    ("views.generators.s_ldm.path", "somewhere", r"either `path` .* or `train`"),
    ("views.generators.s_ldm.train.image_size", 60, r"image_size = 60 is not a multiple of"),
    ("views.generators.s_ldm.train.autoencoder", {"kind": "folder"}, r"kind folder needs `path`"),
    ("views.generators.s_ldm.train.autoencoder", {"kind": "folder", "path": "x"}, r"spread_weighting = 1\.0 needs autoencoder kind patch_pca"),
    ("views.generators.s_ldm.train.encoder", {"run": "cdg"}, r"views\.sources\.s_ldm: circular, s_ldm <- s_ldm"),
    ("consistency.crop_run", "crop", r"consistency\.crop_run = 'crop': no such name; .*did you mean 'crops'"),
    ("consistency.crop_run", "cdg", r"crop_run = 'cdg' has pretext cross_view and draws no crop pairs"),
    ("consistency.sources", ["s_lmd"], r"consistency\.sources = 's_lmd': no such name"),
    ("pretrain.runs.cdg.num_anchors", 9, r"num_anchors = 9, but each bag of source 's_ldm' holds \d other view"),
    ("pretrain.runs.cdg.image_size", 65, r"image_size = 65 is not a multiple of patch_size"),
    ("pretrain.runs.cdg.source", "sldm", r"pretrain\.runs\.cdg\.source = 'sldm': no such name"),
    ("pretrain.runs.cdg.target_masking_ratio", 1.0, r"target_masking_ratio = 1\.0: input should be less than 1"),
    ("pretrain.runs.cdg.target_masking_ratio", 0.999, r"leaves none of \d+ patches visible"),
    ("pretrain.runs.crops.num_anchors", 2, r"pretext crops has 1 anchor"),
    ("pretrain.runs.crops.pretext", "video_pairs", r"'video_pairs' draws its own pairs .* source 'crops' does not have"),
    ("pretrain.runs.cdg.pretext", "video_pairs", r"pretext video_pairs has 1 anchor\(s\), found num_anchors = 2"),
    ("pretrain.runs.cdg.frame_gap", [5, 2], r"frame_gap = \[5, 2\] is no range of whole numbers"),
    ("pretrain.runs.cdg.view_filter", "nsp > 0.5", r"view_filter: expression 'nsp > 0.5': no column 'nsp'; columns: gs, ls, nps"),
    ("pretrain.runs.cdg.view_weight", "sharpness", r"view_weight = 'sharpness': input should be 'gs', 'ls', 'nps' or 'nps_reverse'"),
    ("pretrain.runs.crops.view_filter", "nps > 0.5", r"view_filter chooses among generated views .* cross_view, found crops"),
    ("pretrain.runs.crops.target_view", "generated", r"source 'crops' has no generated views"),
    ("pretrain.defaults.epoch", 5, r"pretrain\.defaults: unknown key\(s\) 'epoch' \(did you mean 'epochs'\?\); allowed: "),
    ("pretrain.defaults.num_heads", 5, r"is not a multiple of num_heads = 5"),
    ("propagation.encoders.cdg", {"run": "cgd"}, r"propagation\.encoders\.cdg\.run = 'cgd': no such name"),
    ("propagation.encoders.cdg", {"run": "cdg", "seed": 3}, r"seed = 3: not trained; allowed: pretrain\.seeds = \[0\]"),
    ("propagation.encoders.cdg", {"run": "cdg", "timm": "x"}, r"name exactly one of .*; found run, timm"),
    ("propagation.datasets.davis.input_size", [480], r"input_size"),
    ("propagation.datasets.kinetics", {"root": "x"}, r"propagation\.datasets\.kinetics\.kind: required and not given; one of davis, vip, jhmdb"),
    ("propagation.encoders", {}, r"propagation\.encoders is empty, so nothing can be measured: name one, or leave section propagation out"),
    ("pretrain.runs.cdg.betas", [0.9, 1.0], r"betas = \[0\.9, 1\.0\]: AdamW's momentum terms are from 0 to below 1"),
    ("pretrain.runs.cdg.betas", 1.0, r"betas = 1\.0: a list is needed, in brackets: \[1\.0\]"),
    ("pretrain.runs.cdg.base_learning_rate", float("inf"), r"base_learning_rate = inf: input should be a finite number"),
    ("pretrain.runs.cdg.view_filter", "nps >= '0.6'", r"view_filter: expression .* compares a number with a text"),
    ("pretrain.seeds", [-1], r"seeds.*-1: input should be greater than or equal to 0"),
    ("seed", 10**30, r"seed = 10*: "),
    ("report.title", "\ud800", r"holds halves of characters"),
    ("views.sources.s_ldm.kind", "s_lm", r"s_ldm\.kind = 's_lm': no such kind; .*did you mean 's_ldm'"),
    ("views.sources.x", {"kind": "folde", "dataset": "demo", "root": 3, "bogus": 1}, r"x\.bogus: .*\n.*x\.kind = 'folde': .*\n.*x\.root = 3: "),
    ("sed", 0, r"sed: unknown key; .*did you mean 'seed'"),
    ("runtime.device", "gpu", r"device = 'gpu': allowed: `auto`, `cpu`, `cuda` or `cuda:N`"),
    ("shards.datasets.bad/name", {"path": "x"}, r"bad/name = 'bad/name': names hold letters, digits, _ and - alone"),
    ("pretrain.seeds", 0, r"seeds = 0: a list is needed, in brackets: \[0\]"),
    ("propagation.datasets.davis.input_size", "480x880", r"input_size = '480x880': allowed: \[height, width\] in pixels, or one number"),
    ("propagation.datasets.davis.input_size", [480], r"input_size = \[480\]: allowed: \[height, width\] in pixels"),
    ("pretrain.runs.cdg.betas", [0.9], r"betas = \[0\.9\]: allowed: AdamW's two momentum terms"),
    ("propagation.encoders", "x", r"encoders = 'x': keys with values are needed below it"),
    ("propagation.encoders.x", {"pixels": 48}, r"jhmdb\.input_size = \(160, 160\): no multiple of 48, .*write \[144, 144\] or \[192, 192\]"),
    ("propagation.datasets.davis.input_size", [140, 192], r"input_size = \(140, 192\): no multiple of 8, .*write \[136, 192\] or \[144, 192\]"),
    ("propagation.encoders.x", {"timm": "vit_small_patch14_dinov2"}, r"vip\.input_size = 192: no multiple of 14, .*encoders\.x; write 182 or 196"),
    ("consistency.image_size", 50, r"consistency\.image_size = 50: no multiple of 8, the patch size of consistency\.encoder; write 48 or 56"),
    ("views.generators.s_ldm.train.encoder_image_size", 33, r"encoder_image_size = 33: no multiple of 8"),
    ("views.sources.x", {"kind": "knn", "dataset": "demo", "encoder": {"pixels": 5}}, r"views\.sources\.x\.image_size = 224: no multiple of 5"),
    ("pretrain.seeds", [0, 0], r"pretrain\.seeds: 0 stands twice; name each once"),
    ("consistency.sources", ["s_ldm", "s_ldm"], r"consistency\.sources: s_ldm stands twice"),
    ("shards.datasets.demo.num_shards", "4", r"in quotes it is a text: write 4"),
    ("propagation.encoders.x", "dino", r"encoders\.x = 'dino': keys with values are needed below it, e\.g\. \{timm: NAME\}"),
    ("shards.datasets.demo.num_shards", 999, r"num_shards = 999, but the demo has only 240 images"),
    ("SED", 0, r"SED: unknown key; allowed: seed, "),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=[f"{key}={value}" for key, value, _ in REFUSED])
def test_config_that_cannot_run_is_refused_with_key_and_remedy(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(changed(key, value))


NO_VIEW = (
    "nps >= 5", "gs < -1", "nps > 0.6 and nps < 0.5", "not nps <= 1", "0.7 < gs < 0.6", "gs + ls > 2", "-nps > 1", "gs == 2 or ls / 2 > 0.6",
    "nps >= 1/0.5", "gs * ls > 1 and nps > 0",
)  # fmt: skip
SOME_VIEW = (
    "nps >= 1",
    "nps > 0.5 and nps < 0.6",
    "gs / ls > 3",
    "not nps > 0.5",
    "gs != 0.5",
    "ls == 0.3",
    "nps >= 0.6 or gs > 4",
    "2 * gs > 1.9",
)


@pytest.mark.parametrize("condition", [*NO_VIEW, *SOME_VIEW])
def test_a_filter_that_no_view_can_pass_is_refused(condition: str) -> None:
    values = changed("pretrain.runs.cdg.view_filter", condition)
    if condition in SOME_VIEW:
        check_config(values)
        return
    with pytest.raises(ConfigError, match=r"view_filter = .*: no view can pass; scores lie between -1 and 1"):
        check_config(values)


def test_dividing_by_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"view_filter: '1 / 0' divides by zero"):
        check_config(changed("pretrain.runs.cdg.view_filter", "nps < 0.5 or gs >= 1/0"))


def test_a_key_that_stands_twice_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text((ROOT / "config.yaml").read_text() + "\nseed: 3\n")
    with pytest.raises(ConfigError, match=r"my\.yaml: key 'seed' stands twice in one mapping, in lines \d+ and \d+; keep one"):
        load_config(file)
    with pytest.raises(
        ConfigError, match="stands twice"
    ):  # as the Snakefile checks it, which Snakemake gave the last value alone
        check_run(DEMO, "my.yaml", [file])
    file.write_text("base: &all {a: 1}\nchanged: {<<: *all, a: 2}\n")
    assert read_files(file)["changed"] == {"a": 2}
