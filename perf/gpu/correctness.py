"""The same inputs on the CPU and on the device: views, model, gradients, training with stop and resume, sampling, scoring, propagation.

Bounds are those of the arithmetic: 1e-5 for float32 sums in another order, half precision's own rounding, one level of 255 for images.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cdgmae.models.cross_view_mae import CrossViewMAE
from cdgmae.pretrain.augment import finish_views
from perf.gpu.findings import CORRECT, Bench, Finding, check, relative_error
from perf.gpu.inputs import A1, A3, batches_of

IMAGENET_STD = 0.229
TINY_MODEL: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "decoder_embed_dim": 32, "decoder_num_heads": 1,
}  # fmt: skip


@check(CORRECT, 15)
def finishing_views(bench: Bench) -> None:
    """The device's resize filters against the 8-bit resizing on the CPU."""
    cases: dict[str, dict[str, Any]] = {
        "a3": A3, "crops": {"num_anchors": 1, "pretext": "crops"}, "mae": {"num_anchors": 0, "pretext": "mae"},
        "own crops": {**A1, "shared_crop": False},
    }  # fmt: skip
    for name, changes in cases.items():
        batch = batches_of(bench.few_bags, 8, **changes).batch(0, range(8))
        wanted = finish_views(batch, 224)
        found = finish_views({key: value.to(bench.device) for key, value in batch.items()}, 224)
        levels = (found.cpu() - wanted).abs() * 255 * IMAGENET_STD
        bench.report(Finding(f"views of {name}, largest difference", float(levels.max()), "levels of 255", goal=0.6))


@check(CORRECT, 25)
def model_values(bench: Bench) -> None:
    """Loss and gradients on the device against float32 on the CPU."""
    torch.manual_seed(0)
    size = {"depth": 2, "decoder_depth": 2} if bench.tiny else {}
    build = {"anchor_masking_ratio": 0.25, "decoder_dropout": 0.0, **size}
    weights = CrossViewMAE(**build).state_dict()
    inputs = [torch.randn(4, 3, 224, 224), torch.randn(4, 3, 3, 224, 224), torch.rand(4, 196), torch.rand(4, 3, 196)]

    def step(device: str, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        model = CrossViewMAE(**build)
        model.load_state_dict(weights)
        model = model.to(device)
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = model(*[value.to(device) for value in inputs]).loss
        loss.backward()
        gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        return loss, torch.cat(gradients)

    wanted_loss, wanted_gradients = step("cpu", None)
    half = {"fp16": torch.float16} if bench.on_gpu else {}
    for name, dtype in {"fp32": None, "bf16": torch.bfloat16, **half}.items():
        loss, gradients = step(bench.device, dtype)
        bounds = (1e-5, 1e-4) if dtype is None else (1e-2, 5e-2)
        bench.report(Finding(f"model {name}, loss", relative_error(loss, wanted_loss), "relative", goal=bounds[0]))
        bench.report(Finding(f"model {name}, gradients", relative_error(gradients, wanted_gradients), "relative", goal=bounds[1]))


@check(CORRECT, 80)
def training_command(bench: Bench) -> None:
    """The command line: bf16, stopped by a signal and gone on with; fp16 in micro-batches; one rank under a launcher."""
    settings: dict[str, Any] = {
        **A3, "effective_batch_size": 64, "epochs": 4, "warmup_epochs": 0.2, "depth": 2, "decoder_depth": 1, "num_panels": 2,
        "ema_decay": 0.99, "clip_grad_norm": 1.0,
    }  # fmt: skip
    if bench.tiny:
        settings |= {**TINY_MODEL, "effective_batch_size": 16, "epochs": 2}
    trainings = Trainings(bench, settings)
    half = "fp16" if bench.on_gpu else "bf16"
    trainings.run("plain", precision="bf16")
    trainings.run("stopped", stop=True, precision="bf16", checkpoint_interval_steps=2)
    trainings.run("stopped", precision="bf16", checkpoint_interval_steps=2)
    trainings.run("half", precision=half, micro_batch_size=8 if bench.tiny else 16)
    trainings.run("one rank", launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"), precision="bf16")
    plain = trainings.metrics("plain")
    for name, bound in (("stopped", 1e-3), ("half", 5e-2), ("one rank", 1e-3)):
        table = trainings.metrics(name)
        if len(table) != len(plain):
            bench.report(Finding(f"training `{name}`, steps", f"{len(table)} of {len(plain)}", goal=0))
            continue
        difference = float((table.loss - plain.loss).abs().max())
        bench.report(Finding(f"training `{name}`, loss beside an undisturbed bf16 run", difference, goal=bound))
        bench.report(Finding(f"training `{name}`, gradient norms that are not finite", float((~np.isfinite(table.grad_norm)).sum()), goal=0))


class Trainings:
    """Runs of the training command on the same bags and settings."""

    def __init__(self, bench: Bench, settings: dict[str, Any]) -> None:
        self.bench, self.settings = bench, settings

    def run(self, name: str, *, launcher: tuple[str, ...] = (), stop: bool = False, **runtime: Any) -> None:
        """One run to its end, or stopped by SIGUSR1 as soon as a state is saved (then exit code 85 is right)."""
        bench, output = self.bench, self.bench.work / name / "seed0"
        command = [
            sys.executable, *launcher, "-m", "cdgmae", "pretrain", "run", "--shards", str(bench.bags / "shards"),
            "--views", str(bench.bags / "views"), "--output", str(output), "--settings", json.dumps(self.settings),
            "--device", bench.device, "--runtime", json.dumps({**runtime, "trackers": []}), "--json",
        ]  # fmt: skip
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while stop and process.poll() is None and not list(output.parent.glob("**/state-*.pt")):
            time.sleep(0.05)
        if stop:
            process.send_signal(signal.SIGUSR1)
        text, _ = process.communicate(timeout=150)
        wanted = 85 if stop else 0
        detail = "" if process.returncode == wanted else text[-1500:]
        what = f"training `{name}`{', stopped' if stop else ''}, exit code away from {wanted}"
        bench.report(Finding(what, float(process.returncode != wanted), goal=0, detail=detail))
        bench.report(Finding(f"training `{name}`, duration with start", time.perf_counter() - started, "s"))

    def metrics(self, name: str) -> pd.DataFrame:
        """The metrics of a run, empty if it left none."""
        path = self.bench.work / name / "seed0/metrics.parquet"
        return pd.read_parquet(path) if path.is_file() else pd.DataFrame({"loss": [], "grad_norm": []})
