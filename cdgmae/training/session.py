"""What a training holds while it steps: opened from a saved state, read now and then, and saved."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cdgmae.runtime.distribution import is_main_process
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.training.accelerator import READ_EVERY
from cdgmae.training.failures import LossWatch, write_failure
from cdgmae.training.metrics import MetricsLog, Row
from cdgmae.training.schedule import LoopSettings, parameter_groups
from cdgmae.training.state import TrainingState, save_state
from cdgmae.training.training_task import TrainingTask

logger = logging.getLogger("cdgmae")

METRICS_FOLDER = "metrics"


@dataclass(slots=True)
class StepTaken:
    """A step whose loss still lies on the device."""

    step: int
    rate: float
    loss: Tensor
    grad_norm: Tensor
    waited: float


@dataclass(slots=True)
class Session:
    """What one call of `train` holds while it steps."""

    task: TrainingTask
    settings: LoopSettings
    seed: int
    runtime: RuntimeSettings
    work_dir: Path
    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    state: TrainingState
    metrics: MetricsLog | None
    watch: LossWatch
    unread: list[StepTaken]
    read_at: float
    saved_at: float


def open_session(
    task: TrainingTask,
    settings: LoopSettings,
    seed: int,
    work_dir: Path,
    runtime: RuntimeSettings,
    accelerator: Accelerator,
    state: TrainingState,
) -> Session:
    """Put model and optimiser on the device as the state says.

    Raises:
        ValueError: if the processes go on from different steps.
    """
    _check_same_state(accelerator, state.step)
    if state.step:
        task.model.load_state_dict(state.model)
        logger.info("going on after step %d", state.step)
    model = task.model.to(accelerator.device).train()
    if runtime.compile:
        model.compile(dynamic=False)  # micro-batches have one size, or two that differ by one: fixed shapes are faster
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, betas=settings.betas, fused=True
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    if state.step:
        optimizer.load_state_dict(state.optimizer)
        if accelerator.scaler is not None and state.scaler is not None:
            accelerator.scaler.load_state_dict(state.scaler)
    if settings.ema_decay is not None:
        weights = task.model.state_dict()
        source = state.ema or weights
        state.ema = {name: source[name].detach().to(tensor.device, copy=True) for name, tensor in weights.items()}
    state.model, state.optimizer = {}, {}  # the live ones count from here on
    metrics = MetricsLog(work_dir / METRICS_FOLDER, state.step) if is_main_process() else None
    watch = LossWatch(settings.max_loss_ratio, state.last_losses)
    now = time.monotonic()
    return Session(
        task, settings, seed, runtime, work_dir, accelerator, model, optimizer, state, metrics, watch, [], now, now
    )  # fmt: skip


def _check_same_state(accelerator: Accelerator, step: int) -> None:
    """All processes must go on from the same step."""
    if accelerator.num_processes > 1:
        steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise ValueError(
                f"the processes found saved states of different steps {steps}; --work must be one shared folder for all"
            )


def reading_due(session: Session) -> bool:
    """Whether to wait for the device and look at the losses: seldom on a GPU, and whenever a state may have to be saved."""
    step, every = session.state.step, session.runtime.checkpoint_interval_steps
    return (
        len(session.unread) >= (1 if session.accelerator.device.type == "cpu" else READ_EVERY)
        or step == session.settings.num_steps
        or (every is not None and step % every == 0)
    )


def read_losses(session: Session) -> list[Row]:
    """Turn the steps since the last reading into rows of metrics.

    Raises:
        ValueError: if a loss is not finite or explodes.
    """
    taken, session.unread = session.unread, []
    accelerator = session.accelerator
    losses = accelerator.reduce(torch.stack([step.loss for step in taken]), "sum").tolist()
    norms = torch.stack([step.grad_norm for step in taken]).tolist()
    now = time.monotonic()
    seconds = max(now - session.read_at, 1e-9)
    session.read_at = now
    on_gpu = accelerator.device.type == "cuda"
    machine_columns = {
        "samples_per_second": session.task.batch_size * len(taken) / seconds,
        "data_wait_share": min(1.0, sum(step.waited for step in taken) / seconds),
        "gpu_memory_mb": torch.cuda.max_memory_allocated(accelerator.device) / 2**20 if on_gpu else None,
    }
    rows: list[Row] = []
    for step, loss, norm in zip(taken, losses, norms, strict=True):
        problem = session.watch.problem(loss)
        if problem is None and not math.isfinite(norm) and accelerator.scaler is None:
            problem = f"gradient norm is {norm}"  # with loss scaling this is usual: the step is skipped
        if problem is not None:
            raise write_failure(session.work_dir, problem, step.step, step.rate, norm, session.task.keys(step.step))
        row: Row = {"step": step.step, "loss": loss, "learning_rate": step.rate, "grad_norm": norm, **machine_columns}
        if session.metrics is not None:
            session.metrics.append(row)
        accelerator.log({name: value for name, value in row.items() if value is not None}, step=step.step)
        rows.append(row)
    return rows


def saving_due(session: Session) -> bool:
    """Whether a state should be saved now, as the main process sees it."""
    step, every = session.state.step, session.runtime.checkpoint_interval_steps
    by_time = time.monotonic() - session.saved_at >= session.runtime.checkpoint_interval_seconds
    by_step = step == session.settings.num_steps or (every is not None and step % every == 0)
    return is_main_process() and (by_time or by_step)


def agree(accelerator: Accelerator, *wishes: bool) -> list[bool]:
    """For each wish whether any process has it: all processes must do the same at the same step."""
    if accelerator.num_processes == 1:
        return list(wishes)
    counts = accelerator.reduce(torch.tensor(wishes, dtype=torch.float32, device=accelerator.device), "sum")
    return [count > 0 for count in counts.tolist()]


def save_session(session: Session) -> None:
    """Write metrics and the whole state; the main process does."""
    session.saved_at = time.monotonic()
    if session.metrics is None:
        return
    session.metrics.flush()
    scaler = session.accelerator.scaler
    state = replace(
        session.state, model=session.task.model.state_dict(), optimizer=session.optimizer.state_dict(),
        scaler=scaler.state_dict() if scaler is not None else None, last_losses=session.watch.last_losses,
    )  # fmt: skip
    save_state(session.work_dir, state, session.runtime.keep_checkpoints)
