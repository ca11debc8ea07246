"""The same inputs on the CPU and on the device: views, loss and gradients, sampling, first stage, scores, masks.

Bounds are those of the arithmetic: float32 sums in another order, half precision's own rounding, one level of 255 for images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdgmae.consistency.score_tables import METRICS
from cdgmae.generators.inference import ALLOWED_LEVELS
from cdgmae.models.cross_view_mae import CrossViewMAE
from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cdgmae.pretrain.augment import finish_views, scale_by_products
from cdgmae.runtime.compute import set_float32_meaning
from perf.gpu.findings import CORRECT, Bench, check, relative_error
from perf.gpu.inputs import A1, A3, batches_of
from perf.gpu.stages import SMALL_ENCODER, Propagation, draw_views, open_sampler, score
from perf.propagation import draw_clip
from perf.synthesis import SIZES, build_pipeline

LOSS_SCALE = 1024.0
"""A power of two that keeps gradients in fp16's range, as loss scaling does."""

MODEL_BOUNDS = {"fp32": (1e-5, 1e-4), "bf16": (1e-2, 5e-2), "fp16": (2e-3, 2e-2)}
"""Relative errors of loss and gradients by precision."""

SCORE_BOUNDS = {"fp32": 1e-4, "bf16": 1e-2}
SOLVERS = (("ddim", 0.0), ("ddim", 0.5), ("dpm_solver", 0.0), ("unipc", 0.0))


@check(CORRECT, 8)
def finishing_views(bench: Bench) -> None:
    """Finished views against the same filters in float32 on the CPU, in levels of 255."""
    cases: dict[str, dict[str, Any]] = {
        "a3": A3, "nested crops": {"num_anchors": 1, "pretext": "crops"},
        "same crops": {"num_anchors": 1, "pretext": "crops", "crop_strategy": "same_views"},
        "mae": {"num_anchors": 0, "pretext": "mae"}, "own crops": {**A1, "shared_crop": False},
    }  # fmt: skip
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    for name, changes in cases.items():
        batch = batches_of(bench.few_bags, 8, **changes).batch(0, range(8))
        exact_BVCSS = scale_by_products(batch, 224, torch.float32)
        target_BCSS, anchors_BACSS = finish_views({key: value.to(bench.device) for key, value in batch.items()}, 224)
        views = [target_BCSS[:, None], *([] if anchors_BACSS is None else [anchors_BACSS])]
        levels_BVCSS = (torch.cat(views, 1).cpu() * std_C11 + mean_C11) * 255
        # a GPU's filters are in half precision; a CPU scales 8-bit images, in two roundings or four
        bound = 0.4 if bench.on_gpu else 2.0
        bench.within(f"views, {name}, largest difference", float((levels_BVCSS - exact_BVCSS).abs().max()), bound, "levels")


@check(CORRECT, 12)
def model_values(bench: Bench) -> None:
    """Loss and gradients on the device against float32 on the CPU."""
    set_float32_meaning(torch.device(bench.device), "fp32")
    torch.manual_seed(0)
    size = {"depth": 2, "decoder_depth": 1} if bench.tiny else {}
    build = {"anchor_masking_ratio": 0.25, "decoder_dropout": 0.0, **size}
    weights = CrossViewMAE(**build).state_dict()
    rows = 2 if bench.tiny else 4
    inputs = [torch.randn(rows, 3, 224, 224), torch.randn(rows, 3, 3, 224, 224), torch.rand(rows, 196), torch.rand(rows, 3, 196)]

    def step(device: str, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        model = CrossViewMAE(**build)
        model.load_state_dict(weights)
        model = model.to(device)
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = model(*[value.to(device) for value in inputs]).loss
        (loss * LOSS_SCALE).backward()
        gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        return loss, torch.cat(gradients) / LOSS_SCALE

    wanted_loss, wanted_gradients = step("cpu", None)
    half = {"fp16": torch.float16} if bench.on_gpu else {}
    for name, dtype in {"fp32": None, "bf16": torch.bfloat16, **half}.items():
        loss, gradients = step(bench.device, dtype)
        bounds = MODEL_BOUNDS[name]
        bench.within(f"model {name}, loss", relative_error(loss, wanted_loss), bounds[0], "relative")
        bench.within(f"model {name}, gradients", relative_error(gradients, wanted_gradients), bounds[1], "relative")


@check(CORRECT, 10)
def sampling(bench: Bench) -> None:
    """Views by every solver with a small generator in float32, and the decoder in half precision."""
    for scheduler, eta in SOLVERS:
        steps = 4 if bench.tiny else 10
        settings = {"scheduler": scheduler, "eta": eta, "num_inference_steps": steps, "guidance_scale": 3.0}
        wanted, found = (
            draw_views(open_sampler(build_pipeline(SIZES["tiny"]), torch.device(device), "fp32", **settings), 4).astype(int)
            for device in ("cpu", bench.device)
        )
        name = f"sampling, {scheduler}{f' with eta {eta}' if eta else ''}, share of values more than one level away"
        bench.within(name, float((np.abs(found - wanted) > 1).mean()), 0.01)
    pipeline = build_pipeline(SIZES["tiny"])
    latents = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = pipeline.images(latents)
        for precision in ("fp32", "bf16"):
            sampler = open_sampler(build_pipeline(SIZES["tiny"]), torch.device(bench.device), precision)
            levels = (sampler.pipeline.images(latents.to(bench.device)).cpu() - exact).abs() * 255
            detail = f"its decoder in {next(sampler.pipeline.autoencoder.decoder.parameters()).dtype}"
            # the nearest code of a cell may be another one: that is no fault of the decoder
            near = float(levels.quantile(0.99))
            bench.within(f"first stage beside {precision}, 99 % of its values", near, ALLOWED_LEVELS, "levels", detail)


@check(CORRECT, 12)
def scores(bench: Bench) -> None:
    """The stage `consistency` on the device against float32 on the CPU."""
    encoder, side = (SMALL_ENCODER, 64) if bench.tiny else ("random:vit_small_patch16_224", 224)

    def table(device: str, precision: str) -> np.ndarray:
        output = bench.work / f"scores-{device}-{precision}.parquet"
        return score(bench.few_bags, encoder, side, device, precision, output)[0][list(METRICS)].to_numpy()

    wanted = table("cpu", "fp32")
    for precision, bound in SCORE_BOUNDS.items():
        difference = np.abs(table(bench.device, precision) - wanted)
        bench.within(f"scores {precision}, largest difference of {len(wanted)} pairs", float(difference.max()), bound)


@check(CORRECT, 12)
def masks(bench: Bench) -> None:
    """The masks of a drawn clip, propagated on the device and on the CPU."""
    frames = range(3 if bench.tiny else 6)
    clip = draw_clip(bench.work, len(frames))
    encoder, sides = (SMALL_ENCODER, (128, 224)) if bench.tiny else ("random:vit_small_patch16_224", (480, 880))
    found = []
    for device in ("cpu", bench.device):
        scorer = Propagation(clip, encoder, sides, torch.device(device)).run(frames)
        found.append(np.stack([scorer.kept(frame) for frame in frames[1:]]))
    bench.within("propagation, share of mask pixels that differ", float((found[0] != found[1]).mean()), 1e-3)
