"""The typed config: what is refused, with which words, and that schema and shipped files follow it."""

from __future__ import annotations

import copy
import json
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
from cdgmae.config import ConfigError, check_config, json_schema, load_config, read_files
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS
from cdgmae.settings.views import UNetSettings
from cdgmae.workflow import pretrain, views
from cdgmae.workflow.named_files import check_run, load_run

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


LAYOUTS = {"davis": "DAVIS", "jhmdb": "JHMDB", "vip": "VIP"}


def test_a_folder_of_another_kind_one_level_off_or_empty_is_refused_and_the_right_one_named(tmp_path: Path) -> None:
    for kind, name in LAYOUTS.items():
        for part in BENCHMARKS[kind].layout:
            (tmp_path / name / part).mkdir(parents=True)
    (tmp_path / "few/a").mkdir(parents=True)
    (tmp_path / "few/a/1.JPG").touch()
    (tmp_path / "few/note.txt").touch()
    roots = {"davis": "JHMDB", "vip": "", "mine": "DAVIS/Annotations", "jhmdb": "few", "right": "VIP"}
    kinds = {"mine": "davis", "right": "vip"}
    values = {
        "shards": {"datasets": {"few": {"path": str(tmp_path / "few"), "num_shards": 2}, "none": {"path": str(tmp_path / "VIP")}}},
        "propagation": {
            "datasets": {name: {"root": str(tmp_path / root), "kind": kinds.get(name, name)} for name, root in roots.items()},
            "encoders": {"floor": {"pixels": 16}},
        },
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        check_run(values, "my.yaml")
    said = str(caught.value)
    for text in (
        f"shards.datasets.few.num_shards = 2, but {tmp_path}/few holds only 1 image(s); write at most 1",
        "VIP': holds no image (.avif, ",
        "JHMDB': holds no JPEGImages, Annotations, ImageSets/2017/val.txt, as DAVIS-2017 (kind davis) does; it is laid out as kind jhmdb",
        f"vip.root = '{tmp_path}': holds no Images, Annotations/Category_ids, as VIP (kind vip) does; {tmp_path}/VIP does: write that",
        f"mine.root = '{tmp_path}/DAVIS/Annotations': holds no JPEGImages, Annotations, ImageSets/2017/val.txt, as DAVIS-2017",
        f"{tmp_path}/DAVIS does: write that",
        "few': holds no Rename_Images, joint_positions, as JHMDB (kind jhmdb) does\n",
    ):
        assert text in f"{said}\n"
    assert "right" not in said


def problems_of(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        check_config(values)
    return caught.value.problems


def test_all_problems_of_keys_values_and_names_are_told_at_once() -> None:
    values = changed("views.sources.s_ldm.generator", "x")
    values["shards"]["datasets"]["demo"]["num_shard"] = 4
    values["views"]["sources"]["crops"]["kind"] = "crop"
    values["pretrain"]["defaults"]["epoch"] = 3
    values["pretrain"]["runs"]["cdg"] |= {"num_anchors": 9, "epochs": "5"}
    values["pretrain"]["runs"]["crops"]["source"] = "crosp"
    values["consistency"] |= {"crop_run": "cropz", "sources": ["z"]}
    values["propagation"]["encoders"]["cdg"] = {"run": "cgd", "sed": 1}
    values["propagation"]["datasets"]["davis"]["input_size"] = [140, 192]
    values["report"]["title"] = 5
    begins = (
        "consistency.crop_run = 'cropz': no such name", "consistency.sources = 'z': no such name; allowed: s_ldm, crops",
        "pretrain.defaults: unknown key(s) 'epoch'", "pretrain.runs.cdg.epochs = '5': ", "pretrain.runs.cdg.num_anchors = 9, but",
        "pretrain.runs.crops.source = 'crosp': no such name; allowed: s_ldm, crops (did", "propagation.datasets.davis.input_size = (140, 192)",
        "propagation.encoders.cdg.run = 'cgd': no such name", "propagation.encoders.cdg.sed: unknown key; ", "propagation.encoders.cdg.seed = 1: not",
        "report.title = 5: ", "shards.datasets.demo.num_shard: unknown key", "views.sources.crops.kind = 'crop': no such kind",
        "views.sources.s_ldm.generator = 'x': no such name",
    )  # fmt: skip
    found = problems_of(values)
    assert [begin for begin in begins if not any(problem.startswith(begin) for problem in found)] == []
    assert len(found) == len(begins), found


def test_what_only_follows_from_another_fault_is_not_told() -> None:
    moved = copy.deepcopy(DEMO)
    moved["sources"] = moved["views"].pop("sources")
    assert [problem.partition(":")[0] for problem in problems_of(moved)] == ["sources"]
    moved["views"]["sorces"] = moved.pop("sources")
    moved["pretrain"]["runs"]["cdg"]["num_anchors"] = 9
    assert [problem.partition(":")[0][:29] for problem in problems_of(moved)] == ["pretrain.runs.cdg.num_anchors", "views.sorces"]
    assert len(problems_of(changed("pretrain.runs.crops.patch_size", "8"))) == 1
    assert len(problems_of(changed("views.sources.s_ldm.sampling.num_views", "3"))) == 1
    assert len(problems_of(changed("views.generators.s_ldm.train.image_size", 60))) == 1
    assert len(problems_of(changed("shards", 5))) == 1
    shared = changed("pretrain.defaults.weight_decay", "1e-2")
    assert [problem.partition(" ")[0] for problem in problems_of(shared)] == ["pretrain.defaults.weight_decay"]


def test_keys_that_stand_twice_or_are_no_text_are_told_beside_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("seed: 1\nseed: 2\nsed: 3\nshards: {datasets: {2017: {path: none}}}\nreport: {title: 2026-01-01}\n")
    with pytest.raises(ConfigError) as caught:
        load_run(file)
    texts = (
        "'seed' stands twice",
        "key 2017 is no text",
        "is a date",
        "sed: unknown key",
        "shards.datasets.2017.path = 'none': does not exist",
    )
    assert [text for text in texts if sum(text in problem for problem in caught.value.problems) != 1] == []
    assert len(caught.value.problems) == len(texts)
    with pytest.raises(ConfigError) as of_run:  # as the Snakefile checks it
        check_run(yaml.safe_load(file.read_text()), "my.yaml", [file])
    assert len(of_run.value.problems) == len(texts)


def test_misspelt_timm_models_and_weights_are_told_with_the_other_problems(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    names = {
        "wrong": "{timm: vit_smal_patch16_224.dino}", "tag": "{timm: vit_base_patch16_224.mea}", "floor": "{random: vit_smal_patch16_224}",
        "right": "{timm: vit_base_patch16_224.mae}", "older": "{timm: vit_small_patch16_224_dino}",
    }  # fmt: skip
    encoders = "".join(f"    {name}: {encoder}\n" for name, encoder in names.items())
    file.write_text(f"propagation:\n  datasets: {{davis: {{root: {tmp_path}/none}}}}\n  encoders:\n{encoders}")
    said = CliRunner().invoke(app, ["config", "check", "--config", str(file)]).exception
    assert isinstance(said, ConfigError)
    for text in (
        r"wrong\.timm = .*no such model \(did you mean 'vit_small_patch16_224' or ",
        r"tag\.timm = .*no such weights of vit_base_patch16_224; published are .*mae, .*\(did you mean 'mae'\?\)",
        r"floor\.random = .*no such model \(did you mean 'vit_small_patch16_224' or ",
        r"davis\.root = '.*/none': does not exist; correct",
    ):
        assert any(re.search(text, problem) for problem in said.problems), text
    assert not [problem for problem in said.problems if re.match(r"propagation\.encoders\.(right|older)", problem)]


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
    with pytest.raises(ConfigError, match=r"views\.generators\.gen_sis\.train\.autoencoder\.path = "):
        check_run(values, "paper.yaml")


def test_missing_data_is_named_with_its_key() -> None:
    paper = ROOT / "workflow/experiments/paper.yaml"
    with pytest.raises(
        ConfigError, match=r"(?s)paper\.yaml cannot.*shards\.datasets\.imagenet\.path = .*propagation\.datasets\.davis\.root"
    ):
        load_run(paper)
    values = read_files(paper) | {"sed": 1}
    with pytest.raises(ConfigError, match=r"(?s)sed: unknown key.*views\.generators\.gen_sis\.path"):
        check_run(values, "paper.yaml")


@pytest.mark.parametrize("key", ["shards.datasets.demo.path", "propagation.datasets.davis.root", "demo.directory"])
@pytest.mark.parametrize("path", ["data/{x}", "a}", "", "a\nb"])
def test_paths_that_snakemake_reads_otherwise_are_refused(key: str, path: str) -> None:
    with pytest.raises(
        ConfigError, match=f"{re.escape(f'{key} = {path!r}')}(?s:.*)a brace \\(which Snakemake reads as a wildcard"
    ):
        check_run(changed(key, path), "config.yaml")


def test_markup_in_a_path_is_printed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "[bold]mine"
    folder.mkdir()
    (folder / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    path = folder.relative_to(tmp_path) / "my.yaml"
    path.write_text(f"shards: {{datasets: {{mine: {{path: '{folder.name}', num_shards: 1}}}}}}\n")
    done = CliRunner().invoke(app, ["config", "check", "--config", str(path)], catch_exceptions=False)
    assert str(path) in done.stdout
    path.write_text("shards: {datasets: {mine: {path: '[bold]none'}}}\n")
    with pytest.raises(ConfigError, match=r"'\[bold\]none'"):
        CliRunner().invoke(app, ["config", "check", "--config", str(path)], catch_exceptions=False)


def test_a_path_that_is_not_there_is_offered_what_lies_there_under_a_like_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data/imagenet/train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for written, offered in (
        (f"{tmp_path}/data/imagnet/train", f"{tmp_path}/data/imagenet/train"), ("data/imagenet/trian", "data/imagenet/train"),
        ("dat/imagenet", "data/imagenet"), ("data/imagnet/val", None), ("data/photos", None), ("/photos", None),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            check_run(changed("shards.datasets.demo.path", written), "config.yaml")
        said = next(problem for problem in caught.value.problems if problem.startswith("shards.datasets.demo.path"))
        assert re.findall(r"did you mean '(.*?)'", said) == ([offered] if offered else []), said


def test_demo_paths_need_not_exist_before_they_are_drawn() -> None:
    check_run(changed("demo.directory", "data/demo"), "config.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        check_run(changed("shards.datasets.demo.path", "data/other/images"), "config.yaml")


def test_seeds_of_two_roots_never_meet() -> None:
    first, second = check_config(changed("seed", 1)), check_config(changed("seed", 2))
    assert len({pretrain.run_seed(jobs, str(seed)) for jobs in (first, second) for seed in range(100)}) == 200


@pytest.mark.parametrize(
    ("text", "hint"), [("a:\n\tb: 1", "blanks, never with tabs"), ("a: b: c", "in quotes"), ("a:\n  b 1\n  c: 1", "KEY: VALUE")]
)
def test_what_is_usually_meant_by_a_yaml_error_is_said(text: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"(?s)my.yaml is not valid YAML: .*{hint}"):
        load_config(tmp_path / "my.yaml")


def test_unreadable_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match=r"holds no sections with keys; `cdgmae config new` writes"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "torn.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "torn.yaml")


def test_dag_time_modules_import_nothing_heavy() -> None:
    heavy = "('torch', 'pandas', 'pyarrow', 'numpy', 'PIL')"
    code = f"import sys, cdgmae.workflow.report, cdgmae.workflow.environment; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_weights_that_the_demo_starts_from_are_those_of_their_recipe() -> None:
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert views.first_weights(check_config(values), "s_ldm") == ["data/demo/demo.json"]
    update_config(values, yaml.safe_load((ROOT / "workflow/experiments/demo_generator.yaml").read_text()))
    recipe, brought = views.generator_training(check_config(values), "s_ldm"), ROOT / "cdgmae/demo/generator"
    assert json.loads((brought / "cdgmae.json").read_text())["provenance"]["settings"] == recipe.model_dump(mode="json")
    assert sum(file.stat().st_size for file in brought.rglob("*") if file.is_file()) < 4e6
    values["views"]["generators"]["s_ldm"]["train"]["start_from"] = "nowhere/generator"
    with pytest.raises(ConfigError, match=r"views\.generators\.s_ldm\.train\.start_from = 'nowhere/generator'"):
        check_run(values, "config.yaml")
