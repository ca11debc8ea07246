"""The training loop: deterministic, resumable at any step, on one process or many, interruptible.

Every batch and every random draw is a pure function of (seed, step, sample). A run that is killed and started again takes the steps
that are missing and ends with the same weights: on one CPU process with the same thread count bit for bit, else within rounding.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cdgmae.runtime.compute import Compute, start_compute
from cdgmae.runtime.distribution import is_main_process, world_size
from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.runtime.out_of_memory import explain_memory
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.runtime.seeds import integer_seed
from cdgmae.runtime.workers import loader_workers
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.training.accelerator import READ_EVERY, open_accelerator, start_trackers
from cdgmae.training.device_copies import copies_to, copy_ahead
from cdgmae.training.failures import LossWatch, write_failure
from cdgmae.training.loader import BatchSource, MicroBatch, cut_micro_batches, load_micro_batches, process_share
from cdgmae.training.memory import MemoryNeed, fitting_micro_batch
from cdgmae.training.metrics import METRICS_SCHEMA, MetricsLog, Row
from cdgmae.training.schedule import LoopSettings, learning_rate, parameter_groups
from cdgmae.training.state import TrainingState, load_state, save_state

logger = logging.getLogger("cdgmae")

METRICS_FOLDER = "metrics"

Observer = Callable[[int, nn.Module], None]
"""Called on the main process after every step with the number of steps taken and the model; draws must not touch global RNG state."""


class TrainingTask(BatchSource, Protocol):
    """What is trained: a model, its batches and its loss."""

    model: nn.Module

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """The scalar loss, a mean over the samples of a batch that is already on the device; torch's generators are seeded."""

    def keys(self, step: int) -> list[str]:
        """Names of the samples in the global batch of a step, for error reports."""

    def memory(self, precision: str) -> MemoryNeed:
        """What a step needs of a GPU's memory."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The trained model (on CPU), the moving average of its weights if asked for, and one metrics row per step.

    All processes get the weights; the metrics are the main process's, the others get an empty table.
    """

    model: nn.Module
    ema_state: dict[str, Tensor] | None
    metrics: pa.Table


@dataclass(slots=True)
class _Taken:
    """A step whose loss still lies on the device."""

    step: int
    rate: float
    loss: Tensor
    grad_norm: Tensor
    waited: float


@dataclass(slots=True)
class _Session:
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
    unread: list[_Taken]
    read_at: float
    saved_at: float


def train(
    task: TrainingTask,
    settings: LoopSettings,
    *,
    seed: int,
    work_dir: Path,
    runtime: RuntimeSettings = DEFAULT_RUNTIME,
    tracker_dir: Path | None = None,
    identity: str = "",
    label: str = "train",
    observe: Observer | None = None,
) -> TrainingResult:
    """Train until `settings.num_steps`, going on from the newest state in `work_dir` that belongs to the same settings.

    Under a launcher every process calls this with the same arguments; the global batch is shared out between them.

    Args:
        task: Model, batches and loss.
        settings: Steps, schedule and optimiser.
        seed: Root of the per-step seeds.
        work_dir: Undeclared folder for states and metrics, the same for all processes; the caller removes it after committing the
            result.
        runtime: How to run here.
        tracker_dir: Folder for the trackers of `runtime`; None: no trackers.
        identity: What the run depends on beyond `settings` and `seed` (settings digest, input hashes).
        label: Name in progress lines and trackers.
        observe: See `Observer`.

    Raises:
        Interrupted: after SIGTERM, SIGUSR1 or the time limit, with the state saved.
        ValueError: if the loss is not finite or explodes, with a report in `work_dir`; the last saved state stays.
    """
    compute = start_compute(runtime)
    identity = f"{identity}|{settings}|seed={seed}|{compute.precision}"
    state = load_state(work_dir, identity) or TrainingState(identity)
    micro_batches = choose_micro_batches(task, runtime, compute)
    # Forked before the process group: NCCL's threads and a fork can wait for each other without end.
    loaded = load_micro_batches(
        task, micro_batches, state.step, settings.num_steps, loader_workers(runtime, compute.device),
        pin_memory=compute.device.type == "cuda",
    )  # fmt: skip
    accelerator = open_accelerator(runtime, tracker_dir)
    session = _open_session(task, settings, seed, work_dir, runtime, accelerator, state)
    start_trackers(accelerator, runtime, tracker_dir, label, run_id=f"{integer_seed(0, identity, 0):016x}")
    try:
        with explain_memory(accelerator.device, "runtime.micro_batch_size", max(map(len, micro_batches))):
            _take_all_steps(session, label, loaded, len(micro_batches), observe)
        model = accelerator.unwrap_model(session.model, keep_torch_compile=False).cpu()
        average = session.state.ema and {name: tensor.cpu() for name, tensor in session.state.ema.items()}
        metrics = session.metrics.table() if session.metrics is not None else METRICS_SCHEMA.empty_table()
        return TrainingResult(model, average, metrics)
    finally:
        accelerator.end_training()


def remove_work(work_dir: Path) -> None:
    """Remove the state of a run whose result is committed."""
    shutil.rmtree(work_dir, ignore_errors=True)


def _open_session(
    task: TrainingTask,
    settings: LoopSettings,
    seed: int,
    work_dir: Path,
    runtime: RuntimeSettings,
    accelerator: Accelerator,
    state: TrainingState,
) -> _Session:
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
    return _Session(
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


def choose_micro_batches(task: TrainingTask, runtime: RuntimeSettings, compute: Compute) -> list[range]:
    """This process's micro-batches of every step: on a GPU as large as its memory allows, unless the size is given.

    Raises:
        ValueError: if there are more processes than samples, or not one sample fits into the GPU's memory.
    """
    limit = runtime.micro_batch_size
    if limit is None and compute.device.type == "cuda":
        limit = fitting_micro_batch(task.memory(compute.precision), compute.device)
    return cut_micro_batches(process_share(task.batch_size), limit)


def _take_all_steps(
    session: _Session, label: str, loaded: Iterator[MicroBatch], num_micro_batches: int, observe: Observer | None
) -> None:
    settings, runtime, first = session.settings, session.runtime, session.state.step
    on_device = copy_ahead(loaded, copies_to(session.accelerator.device))
    meter = ProgressMeter(
        label, settings.num_steps, done=first, unit="steps", interval_seconds=runtime.log_interval_seconds,
        silent=not is_main_process(),
    )  # fmt: skip
    with StopRequest() as stop, meter:
        for step in range(first, settings.num_steps):
            session.unread.append(_take_step(session, step, on_device, num_micro_batches))
            if observe is not None and is_main_process():
                observe(step + 1, session.task.model)
            if not _reading_due(session):
                continue
            rows = _read(session)
            meter.advance(len(rows), note=f"loss {rows[-1]['loss']:.4f}")
            reason = stop.reason()
            stopping, saving = _agree(session.accelerator, reason is not None, _saving_due(session))
            if stopping or saving:
                _save(session)
            if stopping:
                raise Interrupted(
                    f"{label} saved its state after step {step + 1} of {settings.num_steps} ({reason or 'another process'}); "
                    "run it again to go on"
                )


def _take_step(
    session: _Session, step: int, on_device: Iterator[tuple[range, dict[str, Tensor]]], num_micro_batches: int
) -> _Taken:
    """One optimiser step over this process's micro-batches; gradients are those of the mean over the global batch."""
    settings, accelerator, optimizer = session.settings, session.accelerator, session.optimizer
    rate = learning_rate(step, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    total, waited = torch.zeros((), device=accelerator.device), 0.0
    for number in range(num_micro_batches):
        asked = time.monotonic()
        samples, batch = next(on_device)
        waited += time.monotonic() - asked
        torch.manual_seed(integer_seed(session.seed, "training/step", step, samples.start))
        share = len(samples) / session.task.batch_size
        with nullcontext() if number == num_micro_batches - 1 else accelerator.no_sync(session.model):
            with accelerator.autocast():
                loss = session.task.loss(session.model, batch, step)
            accelerator.backward(loss * (share * world_size()))  # gradients are averaged over the processes
        total += loss.detach().float() * share
    limit = settings.clip_grad_norm if settings.clip_grad_norm is not None else math.inf
    norm = accelerator.clip_grad_norm_(session.model.parameters(), limit)
    optimizer.step()
    if session.state.ema is not None:
        was_taken = norm.isfinite() if accelerator.scaler is not None else None  # else loss scaling has skipped the step
        _update_ema(session.task.model, session.state.ema, settings.ema_decay or 0.0, was_taken)
    session.state.step = step + 1
    return _Taken(step, rate, total, torch.as_tensor(norm, dtype=torch.float32, device=total.device), waited)


@torch.no_grad()
def _update_ema(model: nn.Module, average: dict[str, Tensor], decay: float, was_taken: Tensor | None = None) -> None:
    """Move the average towards the weights, unless the step was skipped, which `was_taken` says without waiting for the device."""
    weights = model.state_dict()
    floating = [name for name, tensor in weights.items() if tensor.is_floating_point()]
    averages, now = [average[name] for name in floating], [weights[name] for name in floating]
    if was_taken is None:
        torch._foreach_lerp_(averages, now, 1.0 - decay)
        return
    moves = torch._foreach_sub(now, averages)
    torch._foreach_mul_(moves, was_taken * (1.0 - decay))
    torch._foreach_add_(averages, moves)


def _reading_due(session: _Session) -> bool:
    """Whether to wait for the device and look at the losses: seldom on a GPU, and whenever a state may have to be saved."""
    step, every = session.state.step, session.runtime.checkpoint_interval_steps
    return (
        len(session.unread) >= (1 if session.accelerator.device.type == "cpu" else READ_EVERY)
        or step == session.settings.num_steps
        or (every is not None and step % every == 0)
    )


def _read(session: _Session) -> list[Row]:
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


def _saving_due(session: _Session) -> bool:
    """Whether a state should be saved now, as the main process sees it."""
    step, every = session.state.step, session.runtime.checkpoint_interval_steps
    by_time = time.monotonic() - session.saved_at >= session.runtime.checkpoint_interval_seconds
    by_step = step == session.settings.num_steps or (every is not None and step % every == 0)
    return is_main_process() and (by_time or by_step)


def _agree(accelerator: Accelerator, *wishes: bool) -> list[bool]:
    """For each wish whether any process has it: all processes must do the same at the same step."""
    if accelerator.num_processes == 1:
        return list(wishes)
    counts = accelerator.reduce(torch.tensor(wishes, dtype=torch.float32, device=accelerator.device), "sum")
    return [count > 0 for count in counts.tolist()]


def _save(session: _Session) -> None:
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
