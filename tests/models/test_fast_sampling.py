"""The accelerated sampler against the plain loop, and what each approximation is."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from cdgmae.generators.fast_denoiser import FastDenoiser, why_unsupported
from cdgmae.generators.fast_sampling import SamplingPlan, sample_latents_fast
from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.pipeline import LatentDiffusionPipeline, noise_schedule

EMBEDDING, WIDTH = 10, 12


def pipeline_of(
    depth: int = 2, layers: int = 1, side: int = 8, first_attends: bool = False, **options: object
) -> LatentDiffusionPipeline:
    torch.manual_seed(0)
    attends = [first_attends, *[True] * (depth - 1)]
    unet = UNet2DConditionModel(
        sample_size=side, in_channels=3, out_channels=3, block_out_channels=(8, 16, 24)[:depth], layers_per_block=layers,
        down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
        cross_attention_dim=WIDTH, attention_head_dim=2, norm_num_groups=4, **options,
    ).eval()  # fmt: skip
    return LatentDiffusionPipeline(unet, noise_schedule("ddim"), ConditionProjector(EMBEDDING, WIDTH), None)


def inputs(side: int = 8, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, EMBEDDING, generator=generator), torch.randn(batch, 3, side, side, generator=generator)


def fast(
    pipeline: LatentDiffusionPipeline, plan: SamplingPlan, side: int = 8, compiled: bool = False, **options: object
) -> Tensor:
    return sample_latents_fast(pipeline, FastDenoiser(pipeline.unet, compiled=compiled), *inputs(side), plan, **options)


IN_TIME = {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": WIDTH}
STRUCTURES = {
    "two levels": {}, "three levels, two layers": {"depth": 3, "layers": 2}, "odd sizes": {"depth": 3, "side": 11},
    "attention everywhere": {"first_attends": True}, "linear projection": {"use_linear_projection": True},
    "two transformer blocks": {"transformer_layers_per_block": 2}, "condition in time": IN_TIME,
    "scale and shift": {"resnet_time_scale_shift": "scale_shift", **IN_TIME}, "one level": {"depth": 1, "first_attends": True},
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_fifty_steps_agree_with_the_plain_loop(name: str, scale: float) -> None:
    structure = STRUCTURES[name]
    pipeline, side = pipeline_of(**structure), int(structure.get("side", 8))
    expected = pipeline.sample_latents(*inputs(side), 50, scale)
    found = fast(pipeline, SamplingPlan(50, scale), side)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


class ThreeTokens(ConditionProjector):
    """A condition of three tokens, as ZoomLDM's has more than one."""

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        return super().forward(embeddings_BD) * torch.tensor([1.0, -1.0, 0.5])[:, None]

    def null_tokens(self, batch: int) -> Tensor:
        return super().null_tokens(batch).expand(batch, 3, -1)


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_conditions_of_several_tokens_are_attended_to(scale: float) -> None:
    pipeline = pipeline_of(depth=3)
    pipeline.register_modules(projector=ThreeTokens(EMBEDDING, WIDTH))
    expected = pipeline.sample_latents(*inputs(), 10, scale)
    torch.testing.assert_close(fast(pipeline, SamplingPlan(10, scale)), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("scheduler", ["dpm_solver", "unipc"])
def test_other_schedulers_and_noisy_ddim_agree_with_the_plain_loop(scheduler: str) -> None:
    pipeline = pipeline_of()
    seeds = lambda: [torch.Generator().manual_seed(row) for row in range(3)]  # noqa: E731
    expected = pipeline.sample_latents(*inputs(), 7, 3.0, 0.7, generators=seeds())
    found = fast(pipeline, SamplingPlan(7, 3.0, 0.7), generators=seeds())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    pipeline.set_scheduler(scheduler)
    expected = pipeline.sample_latents(*inputs(), 20, 3.0)
    found = fast(pipeline, SamplingPlan(20, 3.0))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_unipc_follows_the_same_differential_equation() -> None:
    pipeline = pipeline_of()
    pipeline.unet.conv_out.weight.data.mul_(0.1)
    limit, ddim = (fast(pipeline, SamplingPlan(steps, 2.0)) for steps in (200, 20))
    pipeline.set_scheduler("unipc")
    unipc = fast(pipeline, SamplingPlan(20, 2.0))
    assert (unipc - limit).norm() < (ddim - limit).norm()


def rows_seen(module: nn.Module) -> list[int]:
    rows: list[int] = []
    module.register_forward_hook(lambda _module, arguments, _output: rows.append(len(arguments[0])))
    return rows


def test_the_prefix_is_shared_and_cross_attention_runs_once_per_batch() -> None:
    pipeline = pipeline_of()
    unet = pipeline.unet
    first_self_attention = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1
    seen = {
        name: rows_seen(module)
        for name, module in {
            "first layer": unet.down_blocks[0].resnets[0], "self": first_self_attention, "middle": unet.mid_block.resnets[0],
            "value": unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v, "time": unet.time_embedding,
            "cross": unet.mid_block.attentions[0].transformer_blocks[0].attn2,
        }.items()
    }  # fmt: skip
    fast(pipeline, SamplingPlan(4, 6.0))
    assert seen == {"first layer": [3] * 4, "self": [3] * 4, "middle": [6] * 4, "value": [6], "time": [4], "cross": []}


def test_guidance_interval_is_the_plain_loop_with_guidance_switched_on_and_off() -> None:
    pipeline = pipeline_of()
    middle = rows_seen(pipeline.unet.mid_block.resnets[0])
    found = fast(pipeline, SamplingPlan(10, 6.0, guidance_interval=(0.25, 0.75)))
    assert middle == [3, 3, 6, 6, 6, 6, 6, 3, 3, 3]  # t = 901, 801, ..., 1
    embeddings, latents = inputs()
    tokens, null = pipeline.condition(embeddings), pipeline.null_tokens(3)
    pipeline.scheduler.set_timesteps(10)
    with torch.no_grad():
        for timestep in pipeline.scheduler.timesteps:
            e_c, e_u = (pipeline.unet(latents, timestep, encoder_hidden_states=one).sample for one in (tokens, null))
            guided = e_u + 6 * (e_c - e_u) if 250 <= timestep <= 750 else e_c
            latents = pipeline.scheduler.step(guided, timestep, latents).prev_sample
    torch.testing.assert_close(found, latents, rtol=0, atol=1e-5 * float(latents.abs().max()))
    assert (fast(pipeline, SamplingPlan(10, 6.0)) - found).abs().max() > 1e-3


@pytest.mark.parametrize("structure", [{}, {"depth": 3, "layers": 2}, IN_TIME])
def test_feature_reuse_skips_the_deep_layers_and_stays_near(structure: dict) -> None:
    pipeline = pipeline_of(**structure)
    exact = fast(pipeline, SamplingPlan(12, 3.0))
    deep, outer = rows_seen(pipeline.unet.mid_block.resnets[0]), rows_seen(pipeline.unet.up_blocks[-1].resnets[-1])
    found = fast(pipeline, SamplingPlan(12, 3.0, reuse_interval=3))
    assert (len(deep), len(outer)) == (4, 12)
    assert 0 < (found - exact).norm() < 0.2 * exact.norm()
    mixed = fast(pipeline, SamplingPlan(12, 3.0, guidance_interval=(0.3, 0.6), reuse_interval=3))
    assert mixed.isfinite().all()  # features of guided steps are not used for unguided ones


def test_a_shallow_pass_right_after_a_full_one_is_exact() -> None:
    pipeline = pipeline_of(depth=3, layers=2)
    denoiser = FastDenoiser(pipeline.unet)
    embeddings, latents = inputs()
    with torch.no_grad():
        conditions = denoiser.conditions(pipeline.condition(embeddings), torch.tensor([500.0]))
        output, deep = denoiser.full(latents, conditions, 0)
        assert torch.equal(denoiser.shallow(latents, conditions, 0, deep), output)


def test_half_precision_computes_in_half_and_keeps_the_latents_in_single() -> None:
    pipeline = pipeline_of()
    exact = fast(pipeline, SamplingPlan(10, 3.0))
    pipeline.unet.to(torch.bfloat16)
    found = fast(pipeline, SamplingPlan(10, 3.0))
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() < 0.1 * exact.norm()


def test_stopping_between_steps() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        fast(pipeline_of(), SamplingPlan(10, 3.0), between_steps=stop)


def test_denoisers_with_other_parts_are_refused() -> None:
    torch.manual_seed(0)
    other = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), cross_attention_dim=WIDTH, norm_num_groups=4, layers_per_block=1,
    )  # fmt: skip
    assert why_unsupported(other) == "it has block(s) AttnDownBlock2D, AttnUpBlock2D"
    with pytest.raises(ValueError, match="cannot be accelerated"):
        FastDenoiser(other)
    assert "class_embeddings_concat" in str(why_unsupported(pipeline_of(class_embeddings_concat=True, **IN_TIME).unet))


@pytest.mark.slow
def test_compiled_passes_agree() -> None:
    pipeline = pipeline_of()
    for plan in (SamplingPlan(4, 3.0), SamplingPlan(4, 3.0, reuse_interval=2)):
        torch.testing.assert_close(fast(pipeline, plan, compiled=True), fast(pipeline, plan), rtol=1e-3, atol=1e-3)
