"""Generators made ready for sampling against the plain pipeline: attention kernels, layouts, dtypes, compilation."""

from __future__ import annotations

import copy
from functools import partialmethod

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from cdgmae.generators import attention
from cdgmae.generators.attention import OneTokenAttention, ProductAttention, attention_kernel, choose_attention, rows_at_once
from cdgmae.generators.inference import channels_last_is_faster, prepare_for_sampling
from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.pipeline import Autoencoder, LatentDiffusionPipeline, noise_schedule

EMBEDDING, WIDTH = 10, 12
CPU = torch.device("cpu")


def pipeline_of(
    depth: int = 2,
    layers: int = 1,
    side: int = 8,
    first_attends: bool = False,
    stage: Autoencoder | None = None,
    **options: object,
) -> LatentDiffusionPipeline:
    torch.manual_seed(0)
    attends = [first_attends, *[True] * (depth - 1)]
    unet = UNet2DConditionModel(
        sample_size=side, in_channels=3, out_channels=3, block_out_channels=(8, 16, 24)[:depth], layers_per_block=layers,
        down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
        cross_attention_dim=WIDTH, attention_head_dim=2, norm_num_groups=4, **options,
    ).eval()  # fmt: skip
    return LatentDiffusionPipeline(unet, noise_schedule("ddim"), ConditionProjector(EMBEDDING, WIDTH), stage)


def inputs(side: int = 8, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, EMBEDDING, generator=generator), torch.randn(batch, 3, side, side, generator=generator)


def prepared(pipeline: LatentDiffusionPipeline, dtype: torch.dtype = torch.float32, **options: object) -> LatentDiffusionPipeline:
    ready = copy.deepcopy(pipeline)
    prepare_for_sampling(ready, dtype, CPU, **options)
    return ready


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


IN_TIME = {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": WIDTH}
STRUCTURES = {
    "three levels, two layers": {"depth": 3, "layers": 2}, "odd sizes": {"depth": 3, "side": 11},
    "attention everywhere": {"first_attends": True}, "linear projection": {"use_linear_projection": True},
    "two transformer blocks": {"transformer_layers_per_block": 2}, "condition in time": IN_TIME,
    "residual cross-attention with a norm": {"cross_attention_norm": "layer_norm"},
}  # fmt: skip


def assert_agrees_with_the_plain_pipeline(name: str, scale: float, steps: int) -> None:
    structure = STRUCTURES[name]
    pipeline, side = pipeline_of(**structure), int(structure.get("side", 8))
    found = prepared(pipeline, kernels=lambda _width, _device: "products").sample_latents(*inputs(side), steps, scale)
    assert_same(found, pipeline.sample_latents(*inputs(side), steps, scale))


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_fifty_steps_agree_with_the_plain_pipeline(scale: float) -> None:
    assert_agrees_with_the_plain_pipeline("three levels, two layers", scale, 50)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_every_structure_agrees_with_the_plain_pipeline(name: str, scale: float) -> None:
    assert_agrees_with_the_plain_pipeline(name, scale, 10)


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
    assert_same(prepared(pipeline).sample_latents(*inputs(), 10, scale), pipeline.sample_latents(*inputs(), 10, scale))


def test_one_token_needs_neither_queries_nor_keys() -> None:
    ready, calls = prepared(pipeline_of()), []
    for layer in ready.unet.modules():
        if isinstance(layer, Attention) and layer.is_cross_attention:
            layer.to_q.register_forward_hook(lambda *_: calls.append("query"))
            layer.to_k.register_forward_hook(lambda *_: calls.append("key"))
            layer.to_v.register_forward_hook(lambda _layer, tokens, _out: calls.append(tuple(tokens[0].shape)))
    ready.sample_latents(*inputs(), 1, 6.0)
    assert set(calls) == {(6, 1, WIDTH)}


def test_unipc_follows_the_same_differential_equation() -> None:
    pipeline = prepared(pipeline_of())
    pipeline.unet.conv_out.weight.data.mul_(0.1)
    limit, ddim = (pipeline.sample_latents(*inputs(), steps, 2.0) for steps in (100, 20))
    pipeline.set_scheduler("unipc")
    unipc = pipeline.sample_latents(*inputs(), 20, 2.0)
    assert (unipc - limit).norm() < (ddim - limit).norm()


@pytest.mark.parametrize(("width", "device", "kernel"), [
    (384, "cuda", "products"), (960, "cuda", "products"), (512, "cuda", "products"), (257, "cuda", "products"),
    (256, "cuda", "fused"), (64, "cuda", "fused"), (960, "cpu", "fused"), (64, "cpu", "fused"),
])  # fmt: skip
def test_wide_heads_take_two_products_on_a_gpu_alone(width: int, device: str, kernel: str) -> None:
    assert attention_kernel(width, device) == kernel


def test_each_layer_gets_the_kernel_of_its_width() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 288), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=WIDTH, attention_head_dim=1, layers_per_block=1,
    )  # fmt: skip
    for device, wide in (("cuda", ProductAttention), ("cpu", AttnProcessor2_0)):
        chosen = copy.deepcopy(unet)
        choose_attention(chosen, torch.device(device))
        layers = [layer for layer in chosen.modules() if isinstance(layer, Attention)]
        assert {type(layer.processor) for layer in layers if layer.is_cross_attention} == {OneTokenAttention}
        assert {type(layer.processor) for layer in layers if not layer.is_cross_attention} == {wide}


def wide_layer(**options: object) -> Attention:
    torch.manual_seed(0)
    return Attention(query_dim=48, heads=2, dim_head=300, **options)


@pytest.mark.parametrize("form", ["tokens", "image"])
@pytest.mark.parametrize("rows", [16, 2])
def test_two_products_give_what_the_fused_kernel_gives(form: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", rows * 2 * 64**2)
    assert rows_at_once(2, 64) == rows
    layer = wide_layer(norm_num_groups=4, residual_connection=True) if form == "image" else wide_layer()
    given = torch.randn(5, 48, 8, 8) if form == "image" else torch.randn(5, 64, 48)
    with torch.no_grad():
        fused = layer(given)
        layer.set_processor(ProductAttention())
        products = layer(given)
        torch.testing.assert_close(products, fused, rtol=0, atol=1e-5)
        half = layer.bfloat16()(given.bfloat16())
        assert (half.float() - fused).norm() < 0.02 * fused.norm()  # bf16 keeps 8 bits: scores, weights and sums are rounded


def test_rows_at_once_bound_the_memory_of_the_scores() -> None:
    assert rows_at_once(1, 1024) == 512
    assert rows_at_once(1, 4096) == 32
    assert rows_at_once(8, 1 << 20) == 1


def test_the_layout_rule() -> None:
    rule = {
        (kind, compiled): channels_last_is_faster(torch.device(kind), compiled)
        for kind in ("cpu", "cuda")
        for compiled in (False, True)
    }
    assert rule == {("cpu", False): True, ("cpu", True): True, ("cuda", False): False, ("cuda", True): True}
    unet = prepared(pipeline_of()).unet
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def learned_stage(kind: str) -> Autoencoder:
    torch.manual_seed(1)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    if kind == "kl":
        return AutoencoderKL(
            block_out_channels=(8, 16), latent_channels=3, norm_num_groups=4, scaling_factor=0.5, **blocks
        ).eval()
    return VQModel(block_out_channels=(8, 16), latent_channels=3, num_vq_embeddings=32, vq_embed_dim=3, norm_num_groups=4,
                   scaling_factor=1.0, **blocks).eval()  # fmt: skip


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_a_first_stage_decodes_in_half_precision_where_its_pixels_stay_within_one_level(kind: str) -> None:
    pipeline = pipeline_of(stage=learned_stage(kind))
    pipeline.autoencoder.decoder.conv_out.weight.data.mul_(0.1)  # bright and dark areas without much contrast
    ready, latents = prepared(pipeline, torch.bfloat16), pipeline.encode(torch.rand(2, 3, 16, 16))
    assert ready.autoencoder.decoder.conv_in.weight.dtype == torch.bfloat16
    assert ready.autoencoder.encoder.conv_in.weight.dtype == torch.float32
    found, expected = ready.images(latents), pipeline.images(latents)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 1.5 / 255


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_a_first_stage_whose_pixels_would_move_stays_in_single_precision(kind: str) -> None:
    pipeline = pipeline_of(stage=learned_stage(kind))
    pipeline.autoencoder.decoder.conv_out.weight.data.mul_(20)
    latents = pipeline.encode(torch.rand(2, 3, 16, 16))
    ready = prepared(pipeline, torch.bfloat16)
    assert ready.unet.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in ready.autoencoder.parameters()} == {torch.float32}
    assert_same(ready.images(latents), pipeline.images(latents), 1e-4)  # the last layer was scaled up: so is its rounding


def test_half_precision_computes_in_half_and_keeps_the_latents_in_single() -> None:
    pipeline = pipeline_of()
    exact = pipeline.sample_latents(*inputs(), 10, 3.0)
    found = prepared(pipeline, torch.bfloat16).sample_latents(*inputs(), 10, 3.0)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() < 0.1 * exact.norm()


def test_stopping_between_steps() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pipeline_of().sample_latents(*inputs(), 10, 3.0, between_steps=stop)


def test_compiled_parts_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """`aot_eager` traces both parts as whole graphs, as `inductor` does, without the minute of its compiler."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    pipeline = pipeline_of(stage=learned_stage("vq"))
    ready = prepared(pipeline, compiled=True)
    found, expected = (one.sample_latents(*inputs(), 4, 3.0) for one in (ready, pipeline))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ready.images(expected), pipeline.images(expected), rtol=1e-3, atol=1e-3)
