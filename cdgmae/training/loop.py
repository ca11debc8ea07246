"""The training loop: deterministic, resumable at any step, interruptible.

Every batch and every random draw is a pure function of (seed, step). A run that is killed and started again takes the steps
that are missing and ends with the same weights; on one CPU build with the same thread count, bit for bit.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.runtime.seeds import integer_seed
from cdgmae.training.schedule import LoopSettings, learning_rate, parameter_groups
from cdgmae.training.state import TrainingState, load_state, save_state

logger = logging.getLogger("cdgmae")

METRICS_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("grad_norm", pa.float64(), nullable=False),
        pa.field("samples_per_second", pa.float64(), nullable=False),
    ]
)
"""One row per optimiser step. The last column is wall-clock; all others are the same whenever and however often a run was cut."""

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class TrainingTask(Protocol):
    """What is trained: a model, its batches and its loss."""

    model: nn.Module

    def batch(self, step: int) -> dict[str, Tensor]:
        """The CPU tensors of one 0-based step: a pure function of `step`, called from a background thread."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """The scalar loss of a batch that is already on the device; torch's generators are seeded per step."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The trained model (on CPU), the moving average of its weights if asked for, and one metrics row per step."""

    model: nn.Module
    ema_state: dict[str, Tensor] | None
    metrics: pa.Table


@dataclass(slots=True)
class _Session:
    """What one call of `train` holds while it steps."""

    task: TrainingTask
    settings: LoopSettings
    seed: int
    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    state: TrainingState


def train(
    task: TrainingTask,
    settings: LoopSettings,
    *,
    seed: int,
    work_dir: Path,
    device: torch.device,
    precision: str = "fp32",
    identity: str = "",
    label: str = "train",
    log_interval_seconds: float = 30.0,
    checkpoint_interval_seconds: float = 900.0,
) -> TrainingResult:
    """Train until `settings.num_steps`, going on from the state in `work_dir` if it belongs to the same settings.

    Args:
        task: Model, batches and loss.
        settings: Steps, schedule and optimiser.
        seed: Root of the per-step seeds.
        work_dir: Undeclared folder for the state; the caller removes it after committing the result.
        device: Where to train.
        precision: `fp32`, `bf16` or `fp16` (autocast; fp16 with loss scaling).
        identity: What the run depends on beyond `settings` and `seed` (settings digest, input hashes).
        label: Name in progress lines.
        log_interval_seconds: Time between two progress lines.
        checkpoint_interval_seconds: Time between two saved states.

    Raises:
        Interrupted: after SIGTERM, SIGUSR1 or the time limit, with the state saved.
        ValueError: if the loss is not finite; the last saved state stays.
    """
    accelerator = Accelerator(mixed_precision=PRECISIONS[precision], cpu=device.type == "cpu")
    identity = f"{identity}|{settings}|seed={seed}|{precision}"
    session = _open_session(task, settings, seed, accelerator, load_state(work_dir, identity) or TrainingState(identity))
    stop, last_save = StopRequest(), time.monotonic()
    work_dir.mkdir(parents=True, exist_ok=True)
    first = session.state.step
    with ProgressMeter(label, settings.num_steps, done=first, unit="steps", interval_seconds=log_interval_seconds) as meter:
        for step, batch in enumerate(_prefetched(task, first, settings.num_steps), start=first):
            loss = _take_step(session, batch, step)
            meter.advance(1, note=f"loss {loss:.4f}")
            reason = stop.reason()
            if reason or time.monotonic() - last_save >= checkpoint_interval_seconds:
                _save(session, work_dir)
                last_save = time.monotonic()
            if reason:
                raise Interrupted(
                    f"{label} saved its state after step {step + 1} of {settings.num_steps} ({reason}); run it again to go on"
                )
    trained = accelerator.unwrap_model(session.model).cpu()
    columns = {
        name: pa.array(session.state.metrics.get(name, []), METRICS_SCHEMA.field(name).type) for name in METRICS_SCHEMA.names
    }
    return TrainingResult(trained, session.state.ema, pa.table(columns, schema=METRICS_SCHEMA))


def remove_work(work_dir: Path) -> None:
    """Remove the state of a run whose result is committed."""
    shutil.rmtree(work_dir, ignore_errors=True)


def _open_session(
    task: TrainingTask, settings: LoopSettings, seed: int, accelerator: Accelerator, state: TrainingState
) -> _Session:
    if state.step:
        task.model.load_state_dict(state.model)
        logger.info("going on after step %d", state.step)
    model = task.model.to(accelerator.device).train()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, betas=settings.betas, fused=True
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    if state.step:
        optimizer.load_state_dict(state.optimizer)
        if accelerator.scaler is not None and state.scaler is not None:
            accelerator.scaler.load_state_dict(state.scaler)
    if settings.ema_decay is not None:
        weights = accelerator.unwrap_model(model).state_dict()
        source = state.ema or weights
        state.ema = {name: source[name].detach().to(tensor.device, copy=True) for name, tensor in weights.items()}
    return _Session(task, settings, seed, accelerator, model, optimizer, state)


def _prefetched(task: TrainingTask, first: int, last: int, ahead: int = 2) -> Iterator[dict[str, Tensor]]:
    """Batches of steps first..last-1 in order, prepared in a background thread while the device computes."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        pending: deque[Future[dict[str, Tensor]]] = deque()
        for step in range(first, last):
            pending.append(pool.submit(task.batch, step))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _take_step(session: _Session, batch: dict[str, Tensor], step: int) -> float:
    settings, accelerator, optimizer = session.settings, session.accelerator, session.optimizer
    started = time.monotonic()
    rate = learning_rate(step, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate
    torch.manual_seed(integer_seed(session.seed, "training", "step", step))
    on_device = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
    with accelerator.autocast():
        loss = session.task.loss(session.model, on_device, step)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ValueError(
            f"loss is {value} at step {step} (learning rate {rate:.3g}); the last saved state stays. "
            "Lower the learning rate, clip the gradient norm, or use bf16/fp32 precision."
        )
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    limit = settings.clip_grad_norm if settings.clip_grad_norm is not None else math.inf
    norm = accelerator.clip_grad_norm_(session.model.parameters(), limit)
    optimizer.step()
    if session.state.ema is not None:
        _update_ema(session, settings.ema_decay or 0.0)
    samples = len(next(iter(batch.values())))
    seconds = max(time.monotonic() - started, 1e-9)
    row = {
        "step": step,
        "loss": value,
        "learning_rate": rate,
        "grad_norm": float(norm or 0.0),
        "samples_per_second": samples / seconds,
    }
    for name, number in row.items():
        session.state.metrics.setdefault(name, []).append(number)
    session.state.step = step + 1
    return value


@torch.no_grad()
def _update_ema(session: _Session, decay: float) -> None:
    weights = session.accelerator.unwrap_model(session.model).state_dict()
    average = session.state.ema or {}
    floating = [name for name, tensor in weights.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in floating], [weights[name] for name in floating], 1.0 - decay)


def _save(session: _Session, work_dir: Path) -> None:
    scaler = session.accelerator.scaler
    model = session.accelerator.unwrap_model(session.model).state_dict()
    save_state(
        work_dir,
        replace(
            session.state, model=model, optimizer=session.optimizer.state_dict(), scaler=scaler.state_dict() if scaler else None
        ),
    )
