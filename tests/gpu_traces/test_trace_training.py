"""One step of both trainings on a GPU, without a GPU: no mismatch of device or dtype, and nothing that waits inside a step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cdgmae.generators.build import build_unet
from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.pipeline import noise_schedule
from cdgmae.generators.train.denoising_task import Denoiser, GeneratorTask
from cdgmae.pretrain.augment import finish_views
from cdgmae.pretrain.task import build_model, reconstruct
from tests.generators.conftest import training_settings
from tests.gpu_traces.fake_cuda import FakeCuda
from tests.pretrain.drawn_bags import RUN

BATCH = 4
PRETEXTS = {
    "a1": {"num_anchors": 1, "anchor_masking_ratio": 0.0},
    "a3": {"num_anchors": 3, "anchor_masking_ratio": 0.25},
    "crops, nested": {"pretext": "crops", "num_anchors": 1, "anchor_masking_ratio": 0.0},
    "mae": {"pretext": "mae", "num_anchors": 0, "anchor_masking_ratio": 0.0},
}


def bags_on(gpu: FakeCuda, num_anchors: int, masked: bool, nested: bool) -> dict[str, Tensor]:
    """A batch as it arrives on the GPU: packed regions, their sizes, flips, masking noise."""
    views = 1 + num_anchors
    regions, patches = (1 if nested else views), (RUN.image_size // RUN.patch_size) ** 2
    batch = {
        "pixels": gpu.tensor(BATCH * regions * 40 * 40 * 3, dtype=torch.uint8),
        "region_sizes": gpu.tensor(BATCH, regions, 2, dtype=torch.int32),
        "flips": gpu.tensor(BATCH, views, dtype=torch.bool), "target_noise": gpu.tensor(BATCH, patches),
        "dropout_seeds": gpu.tensor(BATCH, dtype=torch.int64),
    }  # fmt: skip
    if nested:
        batch["nested"] = gpu.tensor(BATCH, views, 4, dtype=torch.int32)
    if masked:
        batch["anchor_noise"] = gpu.tensor(BATCH, num_anchors, patches)
    return batch


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("pretext", PRETEXTS)
def test_a_step_of_pre_training_fits_and_never_waits(gpu: FakeCuda, pretext: str, precision: str) -> None:
    settings = RUN.model_copy(update=PRETEXTS[pretext])
    model = gpu.module(build_model(settings, 0))
    batch = bags_on(gpu, settings.num_anchors, settings.anchor_masking_ratio > 0, "nested" in pretext)
    with gpu.tracing(precision) as waits:
        target_BCHW, anchors_BACHW = finish_views(batch, settings.image_size)
        loss = reconstruct(model, batch, settings.image_size).loss
    assert (target_BCHW.device.type, target_BCHW.dtype) == ("cuda", torch.float32)
    assert (anchors_BACHW is None) == (settings.num_anchors == 0)
    assert (loss.device.type, loss.dtype, loss.shape) == ("cuda", torch.float32, ())
    assert waits == []


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_step_of_generator_training_fits_and_waits_for_its_first_copies_alone(
    gpu: FakeCuda, prediction: str, precision: str
) -> None:
    settings = training_settings(prediction_type=prediction)
    model = Denoiser(build_unet(settings.unet, 4, 8), ConditionProjector(16, settings.unet.cross_attention_dim))
    task = GeneratorTask(model, noise_schedule("ddim", prediction), SimpleNamespace(), settings, 0, torch.rand(4))
    gpu.module(model)
    batch = {
        "latents": gpu.tensor(BATCH, 4, 8, 8), "noise": gpu.tensor(BATCH, 4, 8, 8), "embeddings": gpu.tensor(BATCH, 16),
        "timesteps": gpu.tensor(BATCH, dtype=torch.int64), "dropped": gpu.tensor(BATCH, dtype=torch.bool),
    }  # fmt: skip
    with gpu.tracing(precision) as first:
        task.loss(model, batch, 0)
    assert first  # noise levels and weights of the channels go to the device once
    with gpu.tracing(precision) as later:
        loss = task.loss(model, batch, 1)
    assert (loss.device.type, loss.dtype, loss.shape) == ("cuda", torch.float32, ())
    assert later == []


def test_waits_are_noticed(gpu: FakeCuda) -> None:
    """The tests above can fail."""
    with gpu.tracing() as waits:
        values = gpu.tensor(3)
        torch.empty(3).to("cuda")
        torch.tensor([1.0, 2.0], device="cuda")
        values.cpu()
        with pytest.raises(Exception, match=r"scalar|data-dependent|DataDependent"):
            values.sum().item()
    assert len(waits) >= 3, waits
    layer = gpu.module(torch.nn.Linear(3, 2))
    with gpu.tracing("bf16"):
        assert layer(gpu.tensor(1, 3)).dtype == torch.bfloat16
