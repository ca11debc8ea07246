"""The pipeline against numbers of the original implementation, on a reduced-width model in its checkpoint layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel, VQModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    create_unet_diffusers_config_from_ldm,
)
from torch import Tensor

from cdgmae.models.condition_projector import ConditionProjector
from cdgmae.models.latent_diffusion import LatentDiffusionPipeline, noise_schedule
from tests.oracles.formula_weights import formula_normal, formula_tensor

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference"
pytestmark = pytest.mark.skipif(
    not (REFERENCE / "ldm_small.json").is_file(), reason="golden arrays ldm_small are not beside the repository"
)


@pytest.fixture(scope="module")
def case() -> dict:
    return json.loads((REFERENCE / "ldm_small.json").read_text())


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(REFERENCE / "ldm_small.npz").items()}


@pytest.fixture(scope="module")
def pipeline(case: dict) -> LatentDiffusionPipeline:
    state = {}
    for key, shape in case["state_dict"].items():
        state[key] = formula_tensor(case["seed"], key, tuple(shape))
        for part, gain in case["weight_gains"]:
            if part in key and len(shape) >= 2:
                state[key] *= gain
    unet_config = create_unet_diffusers_config_from_ldm(
        {"model": {"params": {"unet_config": {"params": case["unet"]}, "first_stage_config": {"params": {"ddconfig": case["first_stage"]}}}}},
        {}, image_size=64,
    )  # fmt: skip
    unet = UNet2DConditionModel(**unet_config).eval()
    unet.load_state_dict(convert_ldm_unet_checkpoint(state, dict(unet_config)), strict=True)
    stage = VQModel(
        block_out_channels=(32, 64, 128), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2, latent_channels=3, num_vq_embeddings=256, vq_embed_dim=3, scaling_factor=1.0,
    ).eval()  # fmt: skip
    codes = "quantize.embedding.weight"
    converted = convert_ldm_vae_checkpoint(state, dict(stage.config))
    stage.load_state_dict({**converted, codes: state[f"first_stage_model.{codes}"]}, strict=True)
    projector = ConditionProjector(case["embedding_dim"], case["unet"]["context_dim"], "zero_input")
    projector.load_state_dict({f"linear.{name}": state[f"cond_stage_model.patch_fc.{name}"] for name in ("weight", "bias")})
    return LatentDiffusionPipeline(unet, noise_schedule("ddim"), projector, stage)


def given(case: dict, name: str) -> Tensor:
    return formula_normal(case["seed"], name, tuple(case["inputs"][name]))


def test_condition_and_null_tokens(case: dict, golden: dict[str, Tensor], pipeline: LatentDiffusionPipeline) -> None:
    torch.testing.assert_close(pipeline.condition(given(case, "embedding")), golden["token"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pipeline.null_tokens(2), golden["null_token"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_fifty_steps_end_where_the_original_ends(
    case: dict, golden: dict[str, Tensor], pipeline: LatentDiffusionPipeline, scale: float
) -> None:
    found = pipeline.sample_latents(given(case, "embedding"), given(case, "x_T"), case["ddim"]["steps"], scale)
    torch.testing.assert_close(found, golden[f"latent_cfg{scale:.0f}"], atol=1e-3, rtol=1e-5)


def test_first_stage(case: dict, golden: dict[str, Tensor], pipeline: LatentDiffusionPipeline) -> None:
    decoded, encoded = pipeline.decode(given(case, "latent")), pipeline.encode(given(case, "image"))
    torch.testing.assert_close(decoded, golden["decoded"], atol=1e-4, rtol=0)
    torch.testing.assert_close(encoded, golden["encoded"], atol=1e-4, rtol=0)
