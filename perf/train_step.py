"""Time of a training step (forward + backward) against simpler implementations: `python perf/train_step.py`.

The ratio is against the first line: on a CPU the literal statement of the equations, sample by sample and anchor by anchor; the
straightforward implementation, which batches over samples, stands beside it. All have the same weights, inputs and dropout rate; the
variants are measured in turns and medians are printed. On a CPU: float32 and bfloat16. On a GPU: ours in bfloat16 (optionally
compiled) against the straightforward one in float16, with model FLOPs utilisation and peak memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from cdgmae import CrossViewMAE
from cdgmae.models.onednn import use_onednn
from cdgmae.pretrain.flops import count_flops
from cdgmae.settings.pretrain import PretrainRunSettings
from tests.oracles.straightforward_mae import StraightforwardMAE

CASES = {"a1": (1, 0.0), "a3-25%": (3, 0.25)}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Step = Callable[[], None]


def make_steps(num_anchors: int, ratio: float, batch: int, device: torch.device, compiled: bool) -> dict[str, Step]:
    """The steps to compare by name, the baseline first."""
    torch.manual_seed(0)
    model = CrossViewMAE(anchor_masking_ratio=ratio).to(device).train()
    if device.type == "cpu":
        use_onednn(model)
    other = StraightforwardMAE(anchor_masking_ratio=ratio).to(device).train()
    other.load_state_dict(model.state_dict())
    inputs = (
        torch.randn(batch, 3, 224, 224, device=device),
        torch.randn(batch, num_anchors, 3, 224, 224, device=device),
        torch.rand(batch, 196, device=device),
        torch.rand(batch, num_anchors, 196, device=device),
    )
    runner: nn.Module = torch.compile(model) if compiled else model
    if device.type == "cuda":
        return {
            "straightforward fp16": make_step(other, lambda: other(*inputs), "fp16", device),
            "ours bf16": make_step(model, lambda: runner(*inputs).loss, "bf16", device),
        }
    seeds = torch.arange(batch)  # per-sample dropout, as in training on a CPU

    def one_by_one() -> Tensor:
        """The paper's equations sample by sample: each anchor of each sample in an encoder pass of its own."""
        return torch.stack([other(*(values[row : row + 1] for values in inputs)) for row in range(batch)]).mean()

    literal = {"literal fp32": make_step(other, one_by_one, "fp32", device)}
    return literal | {
        f"{name} {precision}": make_step(module, loss, precision, device)
        for precision in ("fp32", "bf16")
        for name, module, loss in (
            ("straightforward", other, lambda: other(*inputs)),
            ("ours", model, lambda: runner(*inputs, seeds).loss),
        )
    }


def make_step(model: nn.Module, loss: Callable[[], Tensor], precision: str, device: torch.device) -> Step:
    """Forward and backward in a precision."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        mixed = precision != "fp32"
        cast: AbstractContextManager[object] = torch.autocast(device.type, PRECISIONS[precision]) if mixed else nullcontext()
        with cast:
            value = loss()
        value.backward()

    return step


def seconds_of(step: Step, device: torch.device, repeats: int) -> float:
    """Wall-clock seconds of one step, the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def measure(steps: dict[str, Step], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of each step, measured in turns after one round of warm-up."""
    repeats = 10 if device.type == "cuda" else 1
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            seconds[name].append(seconds_of(step, device, repeats))
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def gpu_rates(step: Step, seconds: float, flops: float, peak_tflops: float) -> str:
    """Model FLOPs utilisation and peak memory of a step."""
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    memory = torch.cuda.max_memory_allocated() / 2**30
    return f", MFU {flops / seconds / (peak_tflops * 1e12):.1%}, peak memory {memory:.1f} GiB"


def main() -> None:
    """Measure and print one line per case and variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES), action="append", help="Only this case; may be given twice.")
    parser.add_argument("--batch", type=int, default=None, help="Samples per step; default 8 on a CPU, 256 on a GPU.")
    parser.add_argument("--rounds", type=int, default=7, help="Rounds per case; the medians count.")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads.")
    parser.add_argument("--compile", action="store_true", help="Compile our model.")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="Dense bf16 peak of the GPU (H100: 989).")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    batch = options.batch or (256 if device.type == "cuda" else 8)
    for case in options.case or CASES:
        num_anchors, ratio = CASES[case]
        steps = make_steps(num_anchors, ratio, batch, device, options.compile)
        seconds = measure(steps, device, options.rounds)
        flops = batch * count_flops(PretrainRunSettings(num_anchors=num_anchors, anchor_masking_ratio=ratio)).true_step
        baseline = next(iter(seconds.values()))
        for name, value in seconds.items():
            line = f"{case}, {name}: {value:.3f} s, {batch / value:.1f} samples/s, ratio {baseline / value:.2f}"
            if device.type == "cuda":
                line += gpu_rates(steps[name], value, flops, options.peak_tflops)
            print(line, flush=True)


if __name__ == "__main__":
    main()
