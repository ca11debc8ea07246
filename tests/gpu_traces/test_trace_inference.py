"""Sampling, scoring and propagation on a GPU, without a GPU: no mismatch of device or dtype, and where the processor waits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel, VQModel
from PIL import Image

from cdgmae.consistency.scoring.bag_embedding import Embedder
from cdgmae.consistency.scoring.similarities import nearest_patches, pair_similarities
from cdgmae.generators.attention import ProductAttention, choose_attention
from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.pipeline import LatentDiffusionPipeline, noise_schedule
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.models.encoders.frozen_encoder import Encoder
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.engine.frames import embed_frames
from cdgmae.propagation.engine.label_memory import LabelMemory
from cdgmae.settings.encoder import parse_encoder
from tests.generators.conftest import ENCODER
from tests.gpu_traces.fake_cuda import ANSWER_READ, CUDA, DTYPES, FakeCuda

BATCH = 3


def generator_on(gpu: FakeCuda, dtype: torch.dtype) -> LatentDiffusionPipeline:
    """A generator with wide single heads, as LDM-4's are, ready for sampling on the GPU."""
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(32, 288), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12, attention_head_dim=1,
    ).eval()  # fmt: skip
    stage = VQModel(
        block_out_channels=(32, 288), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3, num_vq_embeddings=16, vq_embed_dim=3, scaling_factor=1.0,
    ).eval()  # fmt: skip
    for part in (unet, stage.decoder, stage.post_quant_conv):
        torch.nn.Module.to(part, dtype)
    for module in (unet, stage):
        choose_attention(module, CUDA)
        assert any(isinstance(getattr(layer, "processor", None), ProductAttention) for layer in module.modules())
    pipeline = LatentDiffusionPipeline(unet, noise_schedule(), ConditionProjector(10, 12), stage)
    for module in (unet, stage, pipeline.projector):
        gpu.module(module)
    return pipeline


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("scheduler", "eta", "waits_per_step"), [("ddim", 0.0, 0), ("ddim", 0.5, 1), ("dpm_solver", 0.0, 0)])
def test_sampling_waits_for_nothing_but_the_noise_that_was_drawn_on_the_cpu(
    gpu: FakeCuda, scheduler: str, eta: float, waits_per_step: int, precision: str
) -> None:
    pipeline = generator_on(gpu, DTYPES[precision])
    pipeline.set_scheduler(scheduler)
    counts = {}
    for steps in (2, 4):
        generators = [torch.Generator().manual_seed(row) for row in range(BATCH)]
        with gpu.tracing() as waits, torch.no_grad():
            start = torch.randn(BATCH, 3, 8, 8).to(CUDA)
            latents = pipeline.sample_latents(gpu.tensor(BATCH, 10), start, steps, 6.0, eta, generators=generators)
            images = pipeline.images(latents)
        counts[steps] = len(waits)
        assert all("cpu, cuda" in wait for wait in waits)  # nothing is read from the device
    assert (latents.dtype, images.dtype, images.shape) == (torch.float32, torch.float32, (BATCH, 3, 16, 16))
    assert counts[4] - counts[2] == 2 * waits_per_step


def test_unipc_fits_although_its_solver_copies_small_tensors(gpu: FakeCuda) -> None:
    pipeline = generator_on(gpu, torch.bfloat16)
    pipeline.set_scheduler("unipc")
    with gpu.tracing() as waits, torch.no_grad():
        latents = pipeline.sample_latents(gpu.tensor(BATCH, 10), gpu.tensor(BATCH, 3, 8, 8), 4, 6.0)
    assert latents.device.type == "cuda"
    assert all("cpu, cuda" in wait for wait in waits)


def encoder_on(gpu: FakeCuda) -> Encoder:
    encoder = load_encoder(parse_encoder(ENCODER), device=torch.device("cpu"))
    gpu.module(encoder)
    return encoder


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_scoring_copies_the_images_and_asks_once_whether_all_is_finite(gpu: FakeCuda, precision: str) -> None:
    embed = Embedder(encoder_on(gpu), final_norm=True, device=CUDA, precision=precision)
    with gpu.tracing() as waits, torch.no_grad():
        tokens_BTD = embed([Image.new("RGB", (16, 16))] * BATCH)
        x_PTD, y_PTD = tokens_BTD[:-1], tokens_BTD[1:]
        scores = pair_similarities(x_PTD, y_PTD)
        numbers, similarities = nearest_patches(x_PTD[:, 1:], y_PTD[:, 1:])
    assert (tokens_BTD.dtype, scores.dtype, scores.device.type) == (torch.float32, torch.float32, "cuda")
    assert (numbers.dtype, similarities.dtype) == (torch.int64, torch.float32)
    copied, checked = waits  # whether the features are finite is asked once per pass
    assert "cpu, cuda" in copied
    assert checked == ANSWER_READ


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_propagation_copies_frames_and_reads_nothing_back(gpu: FakeCuda, tmp_path: Path, precision: str) -> None:
    frames = [tmp_path / f"{number}.png" for number in range(5)]
    for path in frames:
        Image.new("RGB", (32, 24)).save(path)
    protocol, encoder = DavisProtocol(kind="davis", root="clips", queue_length=2, radius=1.5, top_k=3), encoder_on(gpu)
    with gpu.tracing() as waits, torch.no_grad():
        features = list(embed_frames(frames, (16, 16), encoder, CUDA, precision))
        memory = LabelMemory(features[0], gpu.tensor(4, 3), (2, 2), protocol)
        set_up = len(waits)
        labels = [memory.propagate(features_ND) for features_ND in features[1:]]
    assert {(label.shape, label.dtype, label.device.type) for label in labels} == {((4, 3), torch.float32, "cuda")}
    assert waits[:set_up].count(ANSWER_READ) == 1  # five frames are one pass
    assert all("cpu, cuda" in wait for wait in waits[:set_up] if wait != ANSWER_READ)
    assert waits[set_up:] == []
