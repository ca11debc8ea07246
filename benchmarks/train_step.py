"""Time of a training step (forward + backward) against the straightforward implementation: `python benchmarks/train_step.py`.

CPU: float32, both with dropout, interleaved, medians; the ratio is straightforward / ours. CUDA: our step in bf16 (optionally
compiled) against the straightforward one in fp16 at the same batch, samples per second, model FLOPs utilisation and peak memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from cdgmae.models import CrossViewMAE
from cdgmae.pretrain.flops import FlopsCount, count_flops
from cdgmae.settings.pretrain import PretrainRunSettings
from tests.oracles.straightforward_mae import StraightforwardMAE

CASES = {"a1": (1, 0.0), "a3-25%": (3, 0.25)}


@dataclass(frozen=True, slots=True)
class Steps:
    """The two training steps to compare, and what one costs."""

    ours: Callable[[], None]
    straightforward: Callable[[], None]
    flops: FlopsCount


def prepare(num_anchors: int, ratio: float, batch: int, device: torch.device, compiled: bool) -> Steps:
    """Both models with the same weights on the same inputs."""
    torch.manual_seed(0)
    model = CrossViewMAE(anchor_masking_ratio=ratio).to(device).train()
    other = StraightforwardMAE(anchor_masking_ratio=ratio).to(device).train()
    other.load_state_dict(model.state_dict())
    inputs = (
        torch.randn(batch, 3, 224, 224, device=device),
        torch.randn(batch, num_anchors, 3, 224, 224, device=device),
        torch.rand(batch, 196, device=device),
        torch.rand(batch, num_anchors, 196, device=device),
    )
    seeds = torch.arange(batch) if device.type == "cpu" else None  # as in training: per-sample dropout on a CPU
    runner: nn.Module = torch.compile(model) if compiled else model
    ours = step_of(model, lambda: runner(*inputs, seeds).loss, device, torch.bfloat16)
    straightforward = step_of(other, lambda: other(*inputs), device, torch.float16)
    settings = PretrainRunSettings(num_anchors=num_anchors, anchor_masking_ratio=ratio)
    return Steps(ours, straightforward, count_flops(settings))


def step_of(model: nn.Module, loss: Callable[[], Tensor], device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward; mixed precision only on a GPU."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        cast: AbstractContextManager[object] = torch.autocast("cuda", dtype) if device.type == "cuda" else nullcontext()
        with cast:
            value = loss()
        value.backward()

    return step


def seconds_of(step: Callable[[], None], device: torch.device, repeats: int = 1) -> float:
    """Wall-clock seconds of one step, the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def interleaved(steps: Steps, device: torch.device, rounds: int, repeats: int) -> tuple[float, float]:
    """Median seconds of our step and of the straightforward one, measured in turns after one round of warm-up."""
    ours, straightforward = [], []
    for _ in range(rounds + 1):
        ours.append(seconds_of(steps.ours, device, repeats))
        straightforward.append(seconds_of(steps.straightforward, device, repeats))
    return statistics.median(ours[1:]), statistics.median(straightforward[1:])


def peak_memory(step: Callable[[], None]) -> float:
    """Peak GiB of GPU memory during one step."""
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    """Measure and print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=None, help="Samples per step; default 8 on a CPU, 256 on a GPU.")
    parser.add_argument("--rounds", type=int, default=7, help="Rounds per case; the medians count.")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads.")
    parser.add_argument("--compile", action="store_true", help="Compile our model (GPU).")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="Dense bf16 peak of the GPU, for the utilisation.")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    batch = options.batch or (256 if device.type == "cuda" else 8)
    for name, (num_anchors, ratio) in CASES.items():
        steps = prepare(num_anchors, ratio, batch, device, options.compile)
        ours, straightforward = interleaved(steps, device, options.rounds, repeats=10 if device.type == "cuda" else 1)
        line = f"{name}: batch {batch}, ours {ours:.3f} s, straightforward {straightforward:.3f} s, ratio {straightforward / ours:.2f}"
        line += f", {batch / ours:.1f} samples/s"
        if device.type == "cuda":
            utilisation = steps.flops.true_step * batch / ours / (options.peak_tflops * 1e12)
            line += f", MFU {utilisation:.1%}"
            line += f", peak memory {peak_memory(steps.ours):.1f} GiB against {peak_memory(steps.straightforward):.1f} GiB"
        print(line, flush=True)


if __name__ == "__main__":
    main()
