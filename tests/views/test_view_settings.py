"""What sampling settings and machine settings change, and what they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from cdgmae.config import check_config
from cdgmae.generators.generator_folder import load_generator, write_generator
from cdgmae.settings.encoder import parse_encoder
from cdgmae.workflow import views
from tests.generators.conftest import ENCODER
from tests.views.test_view_sampling import pixels_of, rows_of, sample

ROOT = Path(__file__).parents[2]


def test_the_batch_size_is_no_parameter_of_the_rule() -> None:
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    before = check_config(values)
    sampling = values["views"]["sources"]["s_ldm"]["sampling"]
    sampling["batch_size"] = 7
    values["runtime"] |= {"precision": "bf16", "workers": 2, "compile": True}
    after = check_config(values)
    assert views.view_settings(after, "s_ldm") == views.view_settings(before, "s_ldm")
    assert (views.view_batch_size(before, "s_ldm"), views.view_batch_size(after, "s_ldm")) == (60, 7)
    sampling["num_inference_steps"] = 11
    assert views.view_settings(check_config(values), "s_ldm") != views.view_settings(before, "s_ldm")


@pytest.fixture(scope="module")
def lively_generator(generator_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with random weights in all layers: a training of six steps leaves the deep ones almost without effect."""
    generator, folder = load_generator(generator_dir, device=torch.device("cpu")), tmp_path_factory.mktemp("lively")
    draw = torch.Generator().manual_seed(0)
    for parameter in generator.pipeline.unet.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=draw)
    write_generator(folder, generator.pipeline, parse_encoder(ENCODER), generator.encoder.digest,
                    image_size=16, encoder_image_size=16, provenance={})  # fmt: skip
    return folder


@pytest.mark.parametrize("changes", [{"scheduler": "unipc"}, {"guidance_scale": 2.0}, {"jpeg_quality": 70}])
def test_each_setting_changes_the_views_and_says_so(
    changes: dict[str, object], shard_tar: Path, lively_generator: Path, tmp_path: Path
) -> None:
    steps = {"num_inference_steps": 6, "guidance_scale": 4.0, "batch_size": 18}
    sample(shard_tar, lively_generator, tmp_path, "plain.tar", **steps)
    sample(shard_tar, lively_generator, tmp_path, "changed.tar", **{**steps, **changes})
    plain, changed = pixels_of(tmp_path / "plain.tar"), pixels_of(tmp_path / "changed.tar")
    assert all((plain[item] != changed[item]).any() for item in plain)
    assert {row.sampler for row in rows_of(tmp_path / "changed.tar")} == {changes.get("scheduler", "ddim")}
