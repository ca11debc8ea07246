"""A converted checkpoint against numbers of the original implementation, at reduced width."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cdgmae.generators.imported.convert import import_generator
from cdgmae.generators.pipeline import LatentDiffusionPipeline, predict
from cdgmae.settings.views import ImportSettings
from tests.generators.original_files import config_file, networks
from tests.oracles.formula_weights import formula_normal, formula_tensor
from tests.oracles.literal_ldm import Weights, linear

CASE = json.loads((Path(__file__).parent / "ldm_small_golden.json").read_text())


def formula_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    weight = formula_tensor(CASE["seed"], key, shape)
    for part, gain in CASE["weight_gains"]:
        weight = weight * gain if part in key and len(shape) >= 2 else weight
    return weight


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusionPipeline:
    folder = tmp_path_factory.mktemp("golden")
    w = networks(CASE["unet"], CASE["first_stage"], Weights(formula_weight))
    linear(w.at("cond_stage_model.patch_fc"), torch.zeros(1, CASE["embedding_dim"]), CASE["unet"]["context_dim"])
    torch.save({"state_dict": w.state, "global_step": 1}, folder / "ldm.ckpt")
    config = config_file(folder / "ldm.yaml", CASE["unet"], CASE["first_stage"])
    result = import_generator(folder / "ldm.ckpt", config, folder / "generator", ImportSettings())
    assert result["matched"] == len(w.state) == 895
    return LatentDiffusionPipeline.from_pretrained(folder / "generator")


def given(name: str) -> Tensor:
    return formula_normal(CASE["seed"], name, tuple(CASE["inputs"][name]))


def check(found: Tensor, name: str, tolerance: float) -> None:
    """The kept values one by one, all values through their mean and spread."""
    array = CASE["arrays"][name]
    stride = array["stride"]
    found = found.detach()
    kept = found[..., ::stride, ::stride] if stride > 1 else found
    assert list(found.shape) == array["shape"]
    torch.testing.assert_close(kept.flatten(), torch.tensor(array["values"]), atol=tolerance, rtol=0)
    assert float(found.double().mean()) == pytest.approx(array["mean"], abs=tolerance)
    assert float(found.double().std(correction=0)) == pytest.approx(array["std"], abs=tolerance)


def test_condition_and_null_tokens(pipeline: LatentDiffusionPipeline) -> None:
    check(pipeline.condition(given("embedding")), "token", 1e-5)
    check(pipeline.null_tokens(2), "null_token", 1e-5)


def test_one_call_of_the_denoiser(pipeline: LatentDiffusionPipeline) -> None:
    tokens = pipeline.condition(given("embedding"))
    with torch.no_grad():
        check(predict(pipeline.unet, given("x_T"), torch.tensor(CASE["timesteps_eps"]), tokens), "eps", 1e-5)


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_fifty_steps_end_where_the_original_ends(pipeline: LatentDiffusionPipeline, scale: float) -> None:
    found = pipeline.sample_latents(given("embedding"), given("x_T"), CASE["steps"], scale)
    check(found, f"latent_cfg{scale:.0f}", 1e-3)


def test_first_stage(pipeline: LatentDiffusionPipeline) -> None:
    check(pipeline.decode(given("latent")), "decoded", 1e-4)
    check(pipeline.encode(given("image")), "encoded", 1e-4)
