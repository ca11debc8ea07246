"""What the device reaches, and what of it the stages get: products, copies, attention, training steps, loading, scoring, propagation.

Goals are those of an H100.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cdgmae.models.cross_view_mae import CrossViewMAE
from cdgmae.pretrain.augment import finish_views
from cdgmae.pretrain.flops import count_flops
from cdgmae.pretrain.reconstruction import reconstruct
from cdgmae.pretrain.run_memory import run_memory
from cdgmae.pretrain.task import build_model
from cdgmae.runtime.compute import set_float32_meaning
from cdgmae.runtime.workers import usable_cores
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.training.device_copies import join_chunks
from cdgmae.training.loader import cut_micro_batches, equal_parts, load_micro_batches
from cdgmae.training.schedule import parameter_groups
from cdgmae.training.traced_memory import CONTEXT_BYTES, MARGIN, MemoryNeed, fitting_micro_batch
from perf.gpu.findings import RATE, Bench, Finding, check
from perf.gpu.inputs import A1, A3, TINY_MODEL, batches_of
from perf.gpu.stages import SMALL_ENCODER, Propagation, score
from perf.gpu.trainings import train_here
from perf.propagation import DAVIS_FRAMES, draw_clip, encoder_gigaflops

PEAK_FLOPS = 989e12
"""Dense bf16 products per second of an H100 or H200."""

ROWS = 256
"""Samples of a micro-batch."""

GLOBAL_BATCH = 2048
"""Samples of a step in the paper."""

STEP_GOALS = {("a3", False): 2000.0, ("a3", True): 3400.0, ("a1", True): 5400.0}
"""Samples per second, with the finishing of views, by run and whether it is compiled."""


@check(RATE, 8)
def environment(bench: Bench) -> None:
    """The ceilings: products, copies on the device and to it, cores, shared memory, a C compiler."""
    side = 256 if bench.tiny else 8192
    for precision, dtype, floor in (("bf16", torch.bfloat16, PEAK_FLOPS / 1e12), ("fp32", torch.float32, None)):
        set_float32_meaning(torch.device(bench.device), precision)
        left = torch.randn(side, side, device=bench.device, dtype=dtype)
        rate = 2 * side**3 / bench.seconds(lambda left=left: left @ left, 5) / 1e12
        bench.report(Finding(f"product of {side} x {side} in {precision}", rate, "TFLOP/s", floor=floor, better="higher"))
    data = torch.empty(1 << (22 if bench.tiny else 31), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(data)
    bench.inform("copy on the device", 2 * data.numel() / bench.seconds(lambda: target.copy_(data), 5) / 1e12, "TB/s")
    host = torch.empty(1 << (22 if bench.tiny else 29), dtype=torch.uint8, pin_memory=bench.on_gpu)
    seconds = bench.seconds(lambda: host.to(bench.device, non_blocking=True, copy=True), 5)
    bench.inform("copy from pinned memory to the device", host.numel() / seconds / 1e9, "GB/s")
    shared = shutil.disk_usage("/dev/shm").total / 2**30 if os.path.isdir("/dev/shm") else 0.0
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "none, so that nothing can be compiled")
    bench.inform("cores", float(usable_cores()), detail=f"{shared:.0f} GiB of shared memory; C compiler: {compiler}")


@check(RATE, 6)
def attention_kernels(bench: Bench) -> None:
    """Forward and backward of attention at the model's shapes, with the kernels that it takes."""
    rows = 2 if bench.tiny else ROWS
    shapes: dict[str, tuple[tuple[int, ...], int, float]] = {
        "encoder, anchors of a3": ((3 * rows, 6, 148, 64), 148, 0.0), "encoder, target": ((rows, 6, 20, 64), 20, 0.0),
        "decoder, cross of a3": ((rows, 8, 197, 32), 444, 0.1), "decoder, self": ((rows, 8, 197, 32), 197, 0.1),
    }  # fmt: skip
    for name, (shape, keys, dropout) in shapes.items():
        query = torch.randn(shape, device=bench.device, dtype=torch.bfloat16, requires_grad=True)
        key = torch.randn(*shape[:2], keys, shape[3], device=bench.device, dtype=torch.bfloat16, requires_grad=True)

        def both(query: Tensor = query, key: Tensor = key, dropout: float = dropout) -> None:
            scaled_dot_product_attention(query, key, key, dropout_p=dropout).sum().backward()

        seconds = bench.seconds(both, 5)
        products = 14 * shape[0] * shape[1] * shape[2] * keys * shape[3]
        detail = f"{seconds * 1e3:.2f} ms; {bench.kernels(both)}"
        bench.inform(f"attention, {name} {shape}, {keys} keys", products / seconds / 1e12, "TFLOP/s", detail)


@check(RATE, 75)
def steps_of_a3(bench: Bench) -> None:
    """Whole steps of CDG-MAE-a3, eager and compiled, and its memory."""
    measure_steps(bench, "a3", A3)


def measure_steps(bench: Bench, name: str, run: dict[str, Any]) -> None:
    """Samples per second of views, forward and backward pass, clipping and AdamW; peak memory against the plan."""
    set_float32_meaning(torch.device(bench.device), "bf16")
    settings = PretrainRunSettings(**run, **(TINY_MODEL if bench.tiny else {}))
    need, rows = run_memory(settings, "bf16"), 4 if bench.tiny else ROWS
    chosen = rows
    if bench.on_gpu:
        chosen = equal_parts(GLOBAL_BATCH, fitting_micro_batch(need, torch.device("cuda")))
        rows = min(rows, chosen)
    drawn = batches_of(bench.bags, rows, **run, **(TINY_MODEL if bench.tiny else {})).batch(0, range(rows))
    batch = {key: value.to(bench.device) for key, value in drawn.items()}
    finishing = bench.seconds(lambda: finish_views(batch, settings.image_size), 5)
    kernels = bench.kernels(lambda: finish_views(batch, settings.image_size), 4)
    bench.inform(f"{name}, finish_views of {rows} samples", finishing * 1e3, "ms", kernels)
    for compiled in (False, True):
        way = f"{name}, {'compiled' if compiled else 'eager'}"
        model = build_model(settings, 0).to(bench.device).train()
        if compiled:
            model.compile(dynamic=False)
        step = make_step(model, settings.image_size, bench.device, compiled=compiled)
        first = measure_memory(bench, way, step, batch, need)
        rate = rows / bench.seconds(lambda step=step: step(batch), 10)
        goal, flops = STEP_GOALS.get((name, compiled)), count_flops(settings).true_step
        bench.report(Finding(way, rate, "samples/s", goal=goal, floor=PEAK_FLOPS / flops, better="higher"))
        bench.inform(f"{way}, share of 989 TFLOP/s", rate * flops / PEAK_FLOPS)
        bench.inform(f"{way}, first step", first, "s", bench.kernels(lambda step=step: step(batch), 6))
    if chosen > rows:  # last: what follows an exhausted memory would tell nothing
        step = make_step(build_model(settings, 0).to(bench.device).train(), settings.image_size, bench.device)
        measure_memory(bench, f"{name}, chosen micro-batch", step, join_chunks([batch] * (chosen // rows)), need)


def make_step(
    model: CrossViewMAE, image_size: int, device: str, *, compiled: bool = False
) -> Callable[[dict[str, Tensor]], None]:
    """One optimiser step on a batch, as the training loop takes it, without its readings."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4, fused=True)

    def step(batch: dict[str, Tensor]) -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = reconstruct(model, batch, image_size, compiled=compiled).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure_memory(
    bench: Bench, name: str, step: Callable[[dict[str, Tensor]], None], batch: dict[str, Tensor], need: MemoryNeed
) -> float:
    """Peak memory of two steps beside what the plan says; returns the seconds of the first."""
    gc.collect()
    if bench.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    step(batch)
    bench.wait()
    first, planned = time.perf_counter() - started, need.of(len(batch["flips"]))
    what = f"{name}, {len(batch['flips'])} samples"
    if not bench.on_gpu:
        bench.inform(f"{what}, planned memory", planned / 2**30, "GiB")
        return first
    step(batch)
    bench.wait()
    peak, held = (count() + CONTEXT_BYTES for count in (torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved))
    detail = f"{peak / 2**30:.1f} GiB, {held / 2**30:.1f} with what the allocator holds, planned {planned / 2**30:.1f}"
    bench.within(f"{what}, peak memory over the plan", peak / planned, 1 / (1 - MARGIN), detail=detail)
    bench.within(f"{what}, share of the device's memory", held / torch.cuda.get_device_properties(0).total_memory, 1)
    return first


@check(RATE, 60)
def loading(bench: Bench) -> None:
    """The loader alone and with the model of a3: samples per second and the share of the time that the model waits."""
    rows, steps = (8, 4) if bench.tiny else (ROWS, 48)
    size = TINY_MODEL if bench.tiny else {}
    for workers, compiled in ((1, False),) if bench.tiny else ((8, False), (14, True)):
        batches = batches_of(bench.bags, rows, **A3, epochs=10_000, **size)
        loaded = load_micro_batches(batches, cut_micro_batches(range(rows), None), 0, steps, workers, bench.on_gpu)
        for _ in range(steps // 3):
            next(loaded)
        started, seen = time.perf_counter(), 0
        for samples, _ in loaded:
            seen += len(samples)
        rate = seen / (time.perf_counter() - started)
        goal = STEP_GOALS["a3", True] if workers == 14 else None
        bench.report(Finding(f"loader alone, {workers} processes", rate, "samples/s", goal=goal, better="higher"))
        runtime = RuntimeSettings(device=bench.device, precision="bf16", loader_workers=workers, trackers=[], compile=compiled)
        table = (
            train_here(bench, f"loading{workers}", rows, steps, runtime, {**A3, **size}).metrics.to_pandas().iloc[-steps // 3 :]
        )
        name = f"{'compiled' if compiled else 'eager'} a3 with {workers} loader processes"
        bench.inform(name, float(table.samples_per_second.median()), "samples/s")
        bench.within(f"{name}, share of the time that it waits for data", float(table.data_wait_share.median()), 0.05)


@check(RATE, 20)
def scoring_rate(bench: Bench) -> None:
    """Images per second of the stage `consistency` with a ViT-B/16, its start left out by a small run before."""
    encoder, side = (SMALL_ENCODER, 64) if bench.tiny else ("random:vit_base_patch16_224", 224)
    precisions = ("bf16",) if bench.tiny else ("fp32", "bf16")
    for precision in precisions:
        times, pairs = {}, {}
        for bags in (bench.few_bags, bench.bags):
            table, times[bags] = score(
                bags, encoder, side, bench.device, precision, bench.work / f"rate-{bags.name}-{precision}.parquet"
            )
            pairs[bags] = len(table)
        images = 5 / 4 * (pairs[bench.bags] - pairs[bench.few_bags])  # a bag: one real image and four views
        seconds = max(1e-9, times[bench.bags] - times[bench.few_bags])
        bench.inform(f"scoring with ViT-B/16, {precision}", images / seconds, "images/s")


@check(RATE, 20)
def propagation_rate(bench: Bench) -> None:
    """Frames per second at DAVIS's size, and the seconds for the 1,999 frames of DAVIS-2017 val in one process."""
    frames, sides = (3, (128, 224)) if bench.tiny else (24, (480, 880))
    clip = draw_clip(bench.work, frames)
    for patch, precision in ((16, "fp32"),) if bench.tiny else ((16, "fp32"), (16, "bf16"), (8, "fp32")):
        encoder = SMALL_ENCODER if bench.tiny else f"random:vit_small_patch{patch}_224"
        propagation = Propagation(clip, encoder, sides, torch.device(bench.device), precision)
        rate = frames / bench.seconds(propagation.run, 2, 1)
        goal = 60.0 if patch == 16 else None
        name, floor = f"ViT-S/{patch} in {precision}", PEAK_FLOPS / encoder_gigaflops(patch) / 1e9
        bench.report(
            Finding(f"propagation, {name}", rate, "frames/s", floor=floor if precision == "bf16" else None, better="higher")
        )
        bench.report(Finding(f"DAVIS-2017 val, {name}", DAVIS_FRAMES / rate, "s", goal=goal))


@check(RATE, 60)
def steps_of_a1(bench: Bench) -> None:
    """Whole steps of CDG-MAE-a1, eager and compiled, and its memory."""
    measure_steps(bench, "a1", A1)
