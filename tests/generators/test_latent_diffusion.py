"""The latent diffusion pipeline against the spec's formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.parts.grid_projector import GridProjector
from cdgmae.generators.parts.patch_autoencoder import PatchAutoencoder
from cdgmae.generators.pipeline import LatentDiffusionPipeline, SchedulerName, noise_schedule, set_timesteps
from tests.oracles.literal_ddim import alpha_bars, ddim_timesteps, epsilon_of_sample, epsilon_of_velocity, literal_ddim

EMBEDDING, WIDTH = 10, 12


def tiny_unet(channels: int = 3, seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip


def tiny_pipeline(
    autoencoder: Any = None, prediction: str = "epsilon", null: str = "zero_input", channels: int = 3
) -> LatentDiffusionPipeline:
    unet = tiny_unet(channels).eval()
    projector = ConditionProjector(EMBEDDING, WIDTH, null)
    return LatentDiffusionPipeline(unet, noise_schedule("ddim", prediction), projector, autoencoder)


def vq_model(**options: Any) -> VQModel:
    torch.manual_seed(1)
    return VQModel(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3, num_vq_embeddings=32, vq_embed_dim=3, norm_num_groups=4, **options,
    ).eval()  # fmt: skip


def kl_model() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3, norm_num_groups=4, scaling_factor=0.5, shift_factor=0.25,
    ).eval()  # fmt: skip


def inputs(batch: int = 2, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, EMBEDDING, generator=generator), torch.randn(batch, channels, 8, 8, generator=generator)


def test_schedule_is_the_published_one() -> None:
    scheduler = noise_schedule()
    expected = torch.tensor(alpha_bars(), dtype=torch.float64)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), expected, rtol=1e-4, atol=0)
    assert float(expected[999]) == pytest.approx(1.423e-4, rel=1e-3)
    with pytest.raises(ValueError, match="allowed: ddim, dpm_solver, unipc"):
        noise_schedule("plms")  # type: ignore[arg-type]


PUBLISHED_TIMES = {
    7: (8, 995),
    30: (31, 991),
    50: (50, 981),
    60: (63, 993),
    300: (334, 1000),
    999: (1000, 1000),
    1000: (1000, 1000),
}
"""Steps asked for -> number of time steps of the published sampler, and the first of them."""


@pytest.mark.parametrize("steps", PUBLISHED_TIMES)
def test_ddim_visits_the_published_time_steps_for_any_count(steps: int) -> None:
    """Held against the literal sampler, which is given what the denoiser said; also where the published one reads past its levels."""
    pipeline, (embeddings, x_T) = tiny_pipeline(), inputs(batch=1)
    outputs: list[Tensor] = []
    times: list[int] = []

    def note(_module: object, given: tuple[Any, ...], output: tuple[Tensor]) -> None:
        times.append(int(given[1]))
        outputs.append(output[0])

    pipeline.unet.register_forward_hook(note)
    found = pipeline.sample_latents(embeddings, x_T.double(), steps, 1.0)
    assert times == [min(t, 999) for t in ddim_timesteps(steps)]
    assert (len(times), ddim_timesteps(steps)[0]) == PUBLISHED_TIMES[steps]
    replayed = iter(outputs)
    expected = literal_ddim(lambda _x, _t: next(replayed).double(), x_T, steps)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["ddim", "dpm_solver", "unipc"])
def test_every_allowed_step_count_can_be_set(name: SchedulerName) -> None:
    scheduler = noise_schedule(name)
    for steps in (*range(1, 1001, 111), 600, 999):
        set_timesteps(scheduler, steps)
        times = scheduler.timesteps.tolist()
        assert len(times) >= steps
        assert 0 <= times[-1] <= times[0] <= 1000


EPSILON_OF = {"epsilon": lambda out, _x, _t: out, "v_prediction": epsilon_of_velocity, "sample": epsilon_of_sample}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scale", [1.0, 0.0, 6.0])
def test_sampling_follows_the_literal_ddim_with_guidance(prediction: str, scale: float) -> None:
    pipeline = tiny_pipeline(prediction=prediction)
    pipeline.unet.double()
    pipeline.projector.double()
    embeddings, x_T = (tensor.double() for tensor in inputs())
    condition = pipeline.projector.linear(embeddings / embeddings.norm(dim=1, keepdim=True))[:, None]
    null = pipeline.projector.linear(torch.zeros(2, EMBEDDING, dtype=torch.float64))[:, None]

    def guided(x: Tensor, t: int) -> Tensor:
        e_u, e_c = (pipeline.unet(x, t, encoder_hidden_states=tokens).sample for tokens in (null, condition))
        out = e_u + scale * (e_c - e_u)
        return EPSILON_OF[prediction](out, x, t)

    with torch.no_grad():
        expected = literal_ddim(guided, x_T, 10)
    found = pipeline.sample_latents(embeddings, x_T, 10, scale)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_guidance_one_runs_one_row_per_view() -> None:
    pipeline, rows = tiny_pipeline(), []
    pipeline.unet.register_forward_hook(lambda _module, arguments, _output: rows.append(len(arguments[0])))
    pipeline.sample_latents(*inputs(), 2, 1.0)
    pipeline.sample_latents(*inputs(), 2, 2.0)
    assert rows == [2, 2, 4, 4]


def test_dpm_solver_follows_the_same_differential_equation() -> None:
    """With many steps DDIM and DPM-Solver++ meet; with 20 the latter is nearer to the limit than DDIM with 20."""
    pipeline, (embeddings, x_T) = tiny_pipeline(), inputs()
    pipeline.unet.conv_out.weight.data.mul_(0.1)
    limit = pipeline.sample_latents(embeddings, x_T, 100, 2.0)
    ddim = pipeline.sample_latents(embeddings, x_T, 20, 2.0)
    pipeline.set_scheduler("dpm_solver")
    solver = pipeline.sample_latents(embeddings, x_T, 20, 2.0)
    assert (solver - limit).abs().max() < 0.1 * limit.abs().max()
    assert (solver - limit).norm() < (ddim - limit).norm()
    with pytest.raises(ValueError, match="eta"):
        pipeline.sample_latents(embeddings, x_T, 2, 1.0, eta=0.5)


@given(st.integers(1, 4), st.sampled_from(["zero_input", "zero_token", "learned"]))
@settings(max_examples=12, deadline=None)
def test_conditions_are_one_normalised_token_and_the_null_is_what_was_asked_for(batch: int, null: str) -> None:
    projector = ConditionProjector(EMBEDDING, WIDTH, null)
    embeddings = torch.randn(batch, EMBEDDING)
    tokens = projector(embeddings)
    assert tokens.shape == projector.null_tokens(batch).shape == (batch, 1, WIDTH)
    torch.testing.assert_close(tokens, projector(7.5 * embeddings))
    expected = {"zero_input": projector(torch.zeros(batch, EMBEDDING)), "zero_token": torch.zeros(batch, 1, WIDTH)}
    if null in expected:
        torch.testing.assert_close(projector.null_tokens(batch), expected[null])
    else:
        assert projector.null_tokens(batch).requires_grad


def test_unknown_null_condition_and_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="zero_input, zero_token, learned"):
        ConditionProjector(4, 4, "nothing")
    with pytest.raises(ValueError, match="wide"):
        LatentDiffusionPipeline(tiny_unet(), noise_schedule(), ConditionProjector(EMBEDDING, WIDTH + 1), None)
    with pytest.raises(ValueError, match="latent channels"):
        tiny_pipeline(PatchAutoencoder(2, 12))


@pytest.mark.parametrize("normalisation", ["l2", "standardise", "none"])
def test_embeddings_are_normalised_as_asked_and_identity_has_nothing_to_whiten(normalisation: str) -> None:
    embeddings = 3 * torch.randn(4, EMBEDDING) + 1
    projector = ConditionProjector(EMBEDDING, EMBEDDING, "zero_token", normalisation, "identity")
    spread = (embeddings - embeddings.mean(1, keepdim=True)) / embeddings.std(1, keepdim=True)
    expected = {"l2": embeddings / embeddings.norm(dim=1, keepdim=True), "standardise": spread, "none": embeddings}
    torch.testing.assert_close(projector(embeddings)[:, 0], expected[normalisation])
    assert torch.equal(projector.null_tokens(2), torch.zeros(2, 1, EMBEDDING))
    with pytest.raises(ValueError, match="no weights to whiten with"):
        projector.whiten(embeddings)
    with pytest.raises(ValueError, match="allowed: l2, standardise, none"):
        ConditionProjector(normalisation="l1")
    with pytest.raises(ValueError, match="use 'linear'"):
        ConditionProjector(8, 4, projection="identity")
    with pytest.raises(ValueError, match=r"magnification = 5; allowed: 0\.\.4"):
        GridProjector(magnification_levels=5, magnification=5)


def test_whitened_projector_spreads_embeddings_that_all_point_one_way() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = 5 + 0.01 * torch.randn(200, EMBEDDING, generator=generator)
    projector = ConditionProjector(EMBEDDING, WIDTH)
    before = projector(embeddings).std(0).max()
    projector.whiten(embeddings)
    tokens = projector(embeddings)[:, 0]
    assert before < 0.01
    torch.testing.assert_close(tokens[:, : EMBEDDING - 1].std(0), torch.ones(EMBEDDING - 1), atol=0.05, rtol=0)
    assert float(tokens.detach().abs().max()) < 6  # nothing but unit-variance components: the mean direction is not blown up
    assert torch.equal(projector.null_tokens(1), torch.zeros(1, 1, WIDTH))


@pytest.mark.parametrize("kind", ["none", "vq", "kl", "patch"])
def test_pipelines_survive_saving_as_safetensors(tmp_path: Path, kind: str) -> None:
    stage = {
        "none": lambda: None,
        "vq": lambda: vq_model(scaling_factor=1.0),
        "kl": kl_model,
        "patch": lambda: PatchAutoencoder(2, 3),
    }[kind]()
    pipeline = tiny_pipeline(stage, null="learned")
    pipeline.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = LatentDiffusionPipeline.from_pretrained(tmp_path)
    embeddings, x_T = inputs()
    first, second = (one.sample_latents(embeddings, x_T, 3, 2.0) for one in (pipeline, again))
    assert torch.equal(first, second)
    assert torch.equal(pipeline.images(first), again.images(second))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(pipeline.encode(images), again.encode(images))


def test_vq_encoding_is_not_quantised_and_decoding_is() -> None:
    stage = vq_model(scaling_factor=1.0).eval()
    pipeline, images = tiny_pipeline(stage), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(pipeline.encode(images), stage.quant_conv(stage.encoder(images)))
        latents = pipeline.encode(images)
        codes = stage.quantize.embedding.weight
        flat = latents.permute(0, 2, 3, 1).reshape(-1, 3)
        nearest = codes[torch.cdist(flat.double(), codes.double()).argmin(1)].reshape(2, 8, 8, 3).permute(0, 3, 1, 2)
        expected = stage.decoder(stage.post_quant_conv(nearest))
    torch.testing.assert_close(pipeline.decode(latents), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(pipeline.images(latents), ((expected + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)


def test_scaling_factors_are_applied_and_a_forgotten_one_is_refused() -> None:
    stage, images = kl_model().eval(), torch.rand(1, 3, 16, 16)
    pipeline = tiny_pipeline(stage)
    with torch.no_grad():
        raw = stage.encode(images).latent_dist.mode()
        torch.testing.assert_close(pipeline.encode(images), (raw - 0.25) * 0.5)
        expected = stage.decode(raw).sample
    torch.testing.assert_close(pipeline.decode(pipeline.encode(images)), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"scaling_factor=1\.0"):
        tiny_pipeline(vq_model())


def test_pixel_diffusion_needs_no_first_stage() -> None:
    pipeline, images = tiny_pipeline(None), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(pipeline.images(pipeline.encode(images * 2 - 1)), images)
    assert pipeline.scaling_factor == 1.0


def test_rows_do_not_depend_on_their_batch_and_noise_of_eta_comes_from_the_row() -> None:
    pipeline, (embeddings, x_T) = tiny_pipeline(), inputs(3)
    together = pipeline.sample_latents(embeddings, x_T, 5, 3.0)
    alone = pipeline.sample_latents(embeddings[1:2], x_T[1:2], 5, 3.0)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4 * float(together.abs().max()))
    seeds = lambda rows: [torch.Generator().manual_seed(row) for row in rows]  # noqa: E731
    together = pipeline.sample_latents(embeddings, x_T, 5, 1.0, eta=1.0, generators=seeds([0, 1, 2]))
    alone = pipeline.sample_latents(embeddings[2:], x_T[2:], 5, 1.0, eta=1.0, generators=seeds([2]))
    torch.testing.assert_close(together[2:], alone, rtol=1e-4, atol=1e-4 * float(together.abs().max()))
    assert F.mse_loss(together, pipeline.sample_latents(embeddings, x_T, 5, 1.0)) > 0
