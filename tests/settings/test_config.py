"""The typed config: what is refused, with which words, and that schema and shipped files follow it."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.config import ConfigError, check_config, check_paths, json_schema, load_config
from cdgmae.settings.views import UNetSettings
from cdgmae.workflow import pretrain, views

ROOT = Path(__file__).parents[2]
DEMO: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())


def changed(key: str, value: Any) -> dict[str, Any]:
    """The demo config with one dotted key set."""
    values = copy.deepcopy(DEMO)
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    return values


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
    ("pretrain.defaults.epoch", 5, r"defaults has unknown key\(s\) epoch"),
    ("pretrain.defaults.num_heads", 5, r"is not a multiple of num_heads = 5"),
    ("propagation.encoders.cdg", {"run": "cgd"}, r"propagation\.encoders\.cdg\.run = 'cgd': no such name"),
    ("propagation.encoders.cdg", {"run": "cdg", "seed": 3}, r"seed = 3: not trained; allowed: pretrain\.seeds = \[0\]"),
    ("propagation.encoders.cdg", {"run": "cdg", "timm": "x"}, r"name exactly one of .*; found run, timm"),
    ("propagation.datasets.davis.input_size", [480], r"input_size"),
    ("propagation.datasets.kinetics", {"root": "x"}, r"propagation\.datasets\.kinetics\.kind: required and not given; one of davis, vip, jhmdb"),
    ("propagation.encoders", {}, r"propagation\.encoders is empty, so nothing can be measured: name one, or leave section propagation out"),
    ("pretrain.runs.cdg.betas", [0.9, 1.0], r"betas = \[0\.9, 1\.0\]: AdamW's momentum terms are from 0 to below 1"),
    ("pretrain.runs.cdg.betas", 1.0, r"betas = 1\.0: input should be a valid array"),
    ("pretrain.runs.cdg.base_learning_rate", float("inf"), r"base_learning_rate = inf: input should be a finite number"),
    ("pretrain.runs.cdg.view_filter", "nps >= '0.6'", r"view_filter: expression .* compares a number with a text"),
    ("pretrain.seeds", [-1], r"seeds.*-1: input should be greater than or equal to 0"),
    ("seed", 10**30, r"seed = 10*: "),
    ("report.title", "\ud800", r"holds halves of characters"),
    ("views.sources.s_ldm.kind", "s_lm", r"s_ldm\.kind = 's_lm': no such kind; .*did you mean 's_ldm'"),
    ("views.sources.x", {"kind": "folde", "dataset": "demo", "root": 3, "bogus": 1}, r"x\.bogus: .*\n.*x\.kind = 'folde': .*\n.*x\.root = 3: "),
    ("sed", 0, r"sed: unknown key; .*did you mean 'seed'"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=[f"{key}={value}" for key, value, _ in REFUSED])
def test_config_that_cannot_run_is_refused_with_key_and_remedy(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(changed(key, value))


def test_all_problems_are_told_at_once() -> None:
    values = changed("views.sources.s_ldm.generator", "x")
    values["pretrain"]["runs"]["cdg"]["source"] = "y"
    values["consistency"]["sources"] = ["z"]
    with pytest.raises(ConfigError) as caught:
        check_config(values)
    assert all(text in str(caught.value) for text in ("generator = 'x'", "source = 'y'", "sources = 'z'"))


def test_sections_may_be_left_out_or_empty_but_not_all_of_them() -> None:
    part = check_config({"shards": DEMO["shards"], "demo": DEMO["demo"], "views": None, "pretrain": {"runs": {}}})
    assert part.stages == ["shards", "report"]
    assert "propagation" not in check_config(changed("propagation.datasets", {})).stages
    with pytest.raises(ConfigError, match=r"nothing to do: name at least shards\.datasets, or propagation\.datasets and"):
        check_config({"seed": 1})


def test_runs_that_choose_views_by_score_wait_for_the_score_tables_and_for_nothing_circular() -> None:
    values = changed("pretrain.runs.cdg.view_filter", "nps >= 0.6 and gs >= 0.9")
    jobs = check_config(values)
    assert pretrain.run_scores(jobs, "cdg") == [f"results/consistency/s_ldm/{shard}.parquet" for shard in ("00000", "00001")]
    assert pretrain.run_scores_flag(jobs, "cdg") == "--consistency results/consistency/s_ldm"
    assert pretrain.run_scores(jobs, "crops") == []
    assert pretrain.run_scores_flag(jobs, "crops") == ""
    values["consistency"]["sources"] = []
    with pytest.raises(ConfigError, match=r"view_filter needs the scores of source 's_ldm'; add it to consistency\.sources"):
        check_config(values)
    values["consistency"] = {**DEMO["consistency"], "encoder": {"run": "cdg"}}
    with pytest.raises(ConfigError, match=r"runs\.cdg has view_filter .* consistency\.encoder needs this run first"):
        check_config(values)


def test_run_settings_are_defaults_with_the_runs_own_keys_on_top() -> None:
    config = check_config(changed("pretrain.defaults.epochs", 7))
    assert config.pretrain.runs["cdg"].epochs == 7
    assert config.pretrain.runs["conditioning"].epochs == DEMO["pretrain"]["runs"]["conditioning"]["epochs"]


def test_stored_schema_is_the_one_the_config_generates() -> None:
    stored = (ROOT / "workflow/schemas/config.schema.json").read_text()
    assert stored == json_schema(), "run `cdgmae config schema --output workflow/schemas/config.schema.json` and commit the file"


def test_every_field_is_described() -> None:
    from cdgmae.config import Config
    from cdgmae.settings.base import Settings

    pending: list[type[Settings]] = [Config, *Settings.__subclasses__()]
    seen: set[type[Settings]] = set()
    while pending:
        kind = pending.pop()
        if kind in seen:
            continue
        seen.add(kind)
        pending.extend(kind.__subclasses__())
        bare = [name for name, field in kind.model_fields.items() if not field.description]
        assert not bare, f"{kind.__name__}: {bare}"
    assert len(seen) > 15


def test_paper_config_carries_the_papers_values() -> None:
    config = load_config(ROOT / "workflow/experiments/paper.yaml")
    sampling = config.views.sources["s_ldm"].sampling
    assert (sampling.num_views, sampling.guidance_scale, sampling.num_inference_steps, sampling.scheduler) == (4, 6.0, 50, "ddim")
    a1, a3 = config.pretrain.runs["cdg_a1"], config.pretrain.runs["cdg_a3"]
    assert (a1.num_anchors, a1.anchor_masking_ratio, a3.num_anchors, a3.anchor_masking_ratio) == (1, 0.0, 3, 0.25)
    assert (a1.patch_size, a1.embed_dim, a1.depth, a1.epochs, a1.effective_batch_size, a1.target_masking_ratio) == (
        16,
        384,
        12,
        100,
        2048,
        0.9,
    )
    assert a1.base_learning_rate * a1.effective_batch_size / 256 == pytest.approx(1.2e-3)
    protocols = config.propagation.datasets
    assert [protocols[name].top_k for name in ("davis", "vip", "jhmdb")] == [7, 10, 7]
    assert {(protocol.queue_length, protocol.radius) for protocol in protocols.values()} == {(20, 20)}


def test_generator_training_overlay_is_ldm4_at_full_size() -> None:
    values = yaml.safe_load((ROOT / "workflow/experiments/paper.yaml").read_text())
    overlay = yaml.safe_load((ROOT / "workflow/experiments/train_generator.yaml").read_text())
    values["views"]["generators"]["gen_sis"] |= overlay["views"]["generators"]["gen_sis"]
    config = check_config(values)
    train = config.views.generators["gen_sis"].train
    assert train is not None
    assert train.unet == UNetSettings()
    assert views.first_weights(config, "gen_sis") == [train.autoencoder.path]
    with pytest.raises(ConfigError, match=r"views\.generators\.gen_sis\.train\.autoencoder\.path"):
        check_paths(config)


def test_missing_data_is_named_with_its_key() -> None:
    config = load_config(ROOT / "workflow/experiments/paper.yaml")
    with pytest.raises(
        ConfigError, match=r"(?s)shards\.datasets\.imagenet\.path = .*propagation\.datasets\.davis\.root"
    ) as caught:
        check_paths(config)
    assert "views.generators.gen_sis.path" in str(caught.value)


@pytest.mark.parametrize("key", ["shards.datasets.demo.path", "propagation.datasets.davis.root", "demo.directory"])
@pytest.mark.parametrize("path", ["data/{x}", "a}", "", "a\nb"])
def test_paths_that_snakemake_reads_otherwise_are_refused(key: str, path: str) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(f'{key} = {path!r}')}(?s:.*)a brace, which Snakemake reads as a wildcard"):
        check_paths(check_config(changed(key, path)))


def test_markup_in_a_path_is_printed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "[bold]mine"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    path = folder.relative_to(tmp_path) / "my.yaml"
    path.write_text(f"shards: {{datasets: {{mine: {{path: '{folder.name}'}}}}}}\n")
    done = CliRunner().invoke(app, ["config", "check", "--config", str(path)], catch_exceptions=False)
    assert str(path) in done.stdout
    path.write_text("shards: {datasets: {mine: {path: '[bold]none'}}}\n")
    with pytest.raises(ConfigError, match=r"'\[bold\]none'"):
        CliRunner().invoke(app, ["config", "check", "--config", str(path)], catch_exceptions=False)


def test_demo_paths_need_not_exist_before_they_are_drawn() -> None:
    check_paths(check_config(changed("demo.directory", "data/demo")))
    with pytest.raises(ConfigError, match="do not exist"):
        check_paths(check_config(changed("shards.datasets.demo.path", "data/other/images")))


def test_seeds_of_two_roots_never_meet() -> None:
    first, second = check_config(changed("seed", 1)), check_config(changed("seed", 2))
    assert len({pretrain.run_seed(jobs, str(seed)) for jobs in (first, second) for seed in range(100)}) == 200


def test_unreadable_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="no mapping of sections"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "torn.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "torn.yaml")


def test_dag_time_modules_import_nothing_heavy() -> None:
    heavy = "('torch', 'pandas', 'pyarrow', 'numpy', 'PIL')"
    code = f"import sys, cdgmae.workflow.report, cdgmae.workflow.environment; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_demos_larger_generator_is_an_overlay_of_the_demo() -> None:
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    overlay = yaml.safe_load((ROOT / "workflow/experiments/demo_generator.yaml").read_text())
    update_config(values, overlay)
    train = views.generator_training(check_config(values), "s_ldm")
    assert (train.target_crops, train.unet.block_out_channels, train.unet.cross_attention_dim) == (5, [48, 64, 64], 96)
    values["views"]["generators"]["s_ldm"]["train"]["whiten_condition"] = False
    values["views"]["generators"]["s_ldm"]["train"]["start_from"] = "data/demo/generator"
    config = check_config(values)
    assert views.first_weights(config, "s_ldm") == ["data/demo/demo.json"]
    values["views"]["generators"]["s_ldm"]["train"]["start_from"] = "nowhere/generator"
    with pytest.raises(ConfigError, match=r"views\.generators\.s_ldm\.train\.start_from = 'nowhere/generator'"):
        check_paths(check_config(values))
