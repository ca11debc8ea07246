"""All problems of a configuration are told at once, and nothing that only follows from another one."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.config import ConfigError, check_config
from cdgmae.workflow.named_files import check_run, load_run
from tests.settings.demo_config import DEMO, changed


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
