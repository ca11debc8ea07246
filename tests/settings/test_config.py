"""The typed config: what is refused, with which words, and that schema and shipped files follow it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from snakemake.utils import update_config

from cdgmae.config import ConfigError, check_config, json_schema, load_config
from cdgmae.settings.views import UNetSettings
from cdgmae.workflow import pretrain, views
from cdgmae.workflow.named_files import check_run
from tests.settings.demo_config import DEMO, ROOT, changed


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


def test_seeds_of_two_roots_never_meet() -> None:
    first, second = check_config(changed("seed", 1)), check_config(changed("seed", 2))
    assert len({pretrain.run_seed(jobs, str(seed)) for jobs in (first, second) for seed in range(100)}) == 200


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
