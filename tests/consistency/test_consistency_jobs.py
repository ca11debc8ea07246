"""What the workflow hands to a scoring job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdgmae.config import Config, check_config
from cdgmae.workflow import consistency

CONFIG = Path(__file__).parents[2] / "config.yaml"


def jobs(**section: Any) -> Config:
    values = yaml.safe_load(CONFIG.read_text())
    values["consistency"] |= section
    return check_config(values)


def test_a_source_with_files_is_scored_from_its_view_shards() -> None:
    made = jobs()
    assert consistency.scored_views(made, "s_ldm", "00000") == [
        f"results/views/s_ldm/00000.{kind}" for kind in ("tar", "parquet")
    ]
    assert consistency.scored_views_flag(made, "s_ldm", "00000") == "--views results/views/s_ldm/00000.tar"
    assert json.loads(consistency.scoring_settings(made, "s_ldm"))["crops"] is None
    assert consistency.source_kind(made, "s_ldm") == "s_ldm"


@pytest.mark.parametrize(("crop_run", "strategy"), [("crops", "random_views"), (None, "global_to_local")])
def test_crops_are_those_of_the_named_run_or_the_published_ones(crop_run: str | None, strategy: str) -> None:
    values = yaml.safe_load(CONFIG.read_text())
    values["consistency"] |= {"sources": ["crops", "s_ldm"], "crop_run": crop_run, "crop_pairs": 3}
    values["pretrain"]["runs"]["crops"] |= {"crop_strategy": "random_views", "global_crop_scale": [0.2, 0.9]}
    made = check_config(values | {"seed": 7})
    assert (consistency.scored_views(made, "crops", "00000"), consistency.scored_views_flag(made, "crops", "00000")) == ([], "")
    crops = json.loads(consistency.scoring_settings(made, "crops"))["crops"]
    assert (crops["crop_strategy"], crops["num_pairs"], crops["seed"]) == (strategy, 3, 7)
    assert crops["global_crop_scale"] == ([0.2, 0.9] if crop_run else [0.1, 1.0])
    assert consistency.all_score_tables(made)[0] == "results/consistency/crops/00000.parquet"
