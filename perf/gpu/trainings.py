"""Training on the device: the command with stop and resume, in bf16 and fp16, under a launcher; and where the host waits for the GPU."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cdgmae.pretrain.task import PretrainTask, build_model, loop_settings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.training.accelerator import READ_EVERY
from cdgmae.training.loop import TrainingResult, train
from perf.gpu.findings import CORRECT, Bench, Finding, check
from perf.gpu.inputs import A3, TINY_MODEL, batches_of

ROOT = Path(__file__).parents[2]
STOPPED = 85
"""Exit code of a training that was asked to stop and has saved its state."""

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
SETTINGS: dict[str, Any] = {
    **A3, "effective_batch_size": 64, "epochs": 4, "warmup_epochs": 0.2, "depth": 2, "decoder_depth": 1, "num_panels": 2,
    "ema_decay": 0.99, "clip_grad_norm": 1.0,
}  # fmt: skip
SAME, HALF = 2e-3, 5e-2
"""How far losses may lie apart: of the same training by atomic sums in another order, of another half precision."""


@check(CORRECT, 55)
def training_command(bench: Bench) -> None:
    """The command: bf16; stopped by a signal and gone on with under a launcher, as one rank; fp16 in micro-batches."""
    settings = SETTINGS | ({**TINY_MODEL, "effective_batch_size": 16, "epochs": 15, "num_panels": 1} if bench.tiny else {})
    commands = Commands(bench, settings)
    half = "fp16" if bench.on_gpu else "fp32"
    commands.run("plain", precision="bf16")
    commands.run("stopped", stop=True, precision="bf16", checkpoint_interval_steps=2)
    commands.run("stopped", launcher=LAUNCHER, precision="bf16", checkpoint_interval_steps=2)
    commands.run(half, precision=half, micro_batch_size=8 if bench.tiny else 16)
    plain = commands.metrics("plain")
    for name, bound in (("stopped", SAME), (half, HALF)):
        table = commands.metrics(name)
        bench.within(f"training `{name}`, steps that its metrics lack", float(len(plain) - len(table)), 0)
        away = (table.loss - plain.loss).dropna()
        # other micro-batches draw other dropout and loss scaling may skip first steps: there the mean of the last steps counts
        largest = away.abs().max() if name == "stopped" else abs(away.tail(len(plain) // 4).mean())
        bench.within(f"training `{name}`, loss beside an undisturbed bf16 run", float(largest), bound)
        allowed = math.ceil(0.1 * len(plain)) if half == name == "fp16" else 0  # loss scaling starts high and skips steps
        infinite = float((~np.isfinite(table.grad_norm)).sum())
        bench.within(f"training `{name}`, gradient norms that are not finite", infinite, allowed)


class Commands:
    """Runs of `cdgmae pretrain run` on the same bags and settings."""

    def __init__(self, bench: Bench, settings: dict[str, Any]) -> None:
        self.bench, self.settings = bench, settings

    def run(self, name: str, *, launcher: Sequence[str] = (), stop: bool = False, **runtime: Any) -> None:
        """One run to its end, or stopped by SIGUSR1 as soon as a state is saved."""
        bench, output = self.bench, self.bench.work / name / "seed0"
        machine = RuntimeSettings(device=bench.device, trackers=[], **runtime)
        command = [
            sys.executable, *launcher, "-m", "cdgmae", "pretrain", "run", "--shards", str(bench.bags / "shards"),
            "--views", str(bench.bags / "views"), "--output", str(output), "--settings", json.dumps(self.settings),
            "--runtime", machine.canonical_json(), "--json",
        ]  # fmt: skip
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
            while stop and process.poll() is None and not list(output.parent.glob("**/state-*.pt")):
                time.sleep(0.01)
            if stop:
                process.send_signal(signal.SIGUSR1)
            text, _ = process.communicate(timeout=150)
        seconds, wanted = time.perf_counter() - started, STOPPED if stop else 0
        what = f"training `{name}`{', stopped' if stop else ', gone on with' if launcher else ''}, exit code, {wanted} wanted"
        detail = f"{seconds:.0f} s" if process.returncode == wanted else text[-1500:]
        bench.report(Finding(what, float(process.returncode), goal=wanted, better="equal", detail=detail))

    def metrics(self, name: str) -> pd.DataFrame:
        """The metrics of a run, empty if it left none."""
        path = self.bench.work / name / "seed0/metrics.parquet"
        return pd.read_parquet(path) if path.is_file() else pd.DataFrame({"loss": [], "grad_norm": []}, dtype=float)


def train_here(
    bench: Bench, name: str, batch_size: int, steps: int, runtime: RuntimeSettings, settings: dict[str, Any]
) -> TrainingResult:
    """Train so many steps on the drawn bags in this process."""
    batches = batches_of(bench.bags, batch_size, epochs=10_000, **settings)
    task = PretrainTask(batches, build_model(batches.settings, 0))
    loop = replace(loop_settings(batches.settings, batches.steps_per_epoch), num_steps=steps)
    return train(task, loop, seed=0, work_dir=bench.work / name, runtime=runtime)


@check(CORRECT, 20)
def waits(bench: Bench) -> None:
    """Calls of a training that make the host wait for the GPU: those that more steps have more of, with file and line."""
    places: list[Counter[str]] = []
    settings = {**A3, "depth": 2, "decoder_depth": 1, "clip_grad_norm": 1.0, "ema_decay": 0.99} | (
        TINY_MODEL if bench.tiny else {}
    )
    runtime = RuntimeSettings(device=bench.device, precision="bf16", loader_workers=1, trackers=[])
    few = 1 if bench.tiny else 2
    for readings in (few, 2 * few):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if bench.on_gpu:
                torch.cuda.set_sync_debug_mode("warn")
            try:
                train_here(bench, f"waits{readings}", 8, readings * READ_EVERY, runtime, settings)
            finally:
                if bench.on_gpu:
                    torch.cuda.set_sync_debug_mode("default")
        found = [warning for warning in caught if "synchroniz" in str(warning.message)]
        places.append(Counter(f"{warning.filename.split('site-packages/')[-1]}:{warning.lineno}" for warning in found))
    more = places[1] - places[0]
    detail = ", ".join(f"{count} at {place}" for place, count in more.most_common(6))
    # losses and norms are read together: two waits per reading
    bench.within(f"waits for the GPU in {READ_EVERY} steps", more.total() / few, 2, detail=detail)
