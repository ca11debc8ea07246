"""The training loop: deterministic, resumable at any step, on one process or many, interruptible.

Every batch and every random draw is a pure function of (seed, step, sample). A run that is killed and started again takes the steps
that are missing and ends with the same weights: on one CPU process with the same thread count bit for bit, else within rounding.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn

from cdgmae.runtime.compute import Compute, start_compute
from cdgmae.runtime.distribution import is_main_process, world_size
from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.runtime.out_of_memory import explain_memory
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.runtime.seeds import integer_seed
from cdgmae.runtime.workers import loader_workers
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.training.accelerator import open_accelerator, start_trackers
from cdgmae.training.device_copies import copies_to, copy_ahead
from cdgmae.training.loader import MicroBatch, cut_micro_batches, load_micro_batches, process_share
from cdgmae.training.metrics import METRICS_SCHEMA
from cdgmae.training.schedule import LoopSettings, learning_rate
from cdgmae.training.session import Session, StepTaken, agree, open_session, read_losses, reading_due, save_session, saving_due
from cdgmae.training.state import TrainingState, load_state
from cdgmae.training.traced_memory import fitting_micro_batch
from cdgmae.training.training_task import TrainingTask

Observer = Callable[[int, nn.Module], None]
"""Called on the main process after every step with the number of steps taken and the model; draws must not touch global RNG state."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The trained model (on CPU), the moving average of its weights if asked for, and one metrics row per step.

    All processes get the weights; the metrics are the main process's, the others get an empty table.
    """

    model: nn.Module
    ema_state: dict[str, Tensor] | None
    metrics: pa.Table


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
    session = open_session(task, settings, seed, work_dir, runtime, accelerator, state)
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
    session: Session, label: str, loaded: Iterator[MicroBatch], num_micro_batches: int, observe: Observer | None
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
            if not reading_due(session):
                continue
            rows = read_losses(session)
            meter.advance(len(rows), note=f"loss {rows[-1]['loss']:.4f}")
            reason = stop.reason()
            stopping, saving = agree(session.accelerator, reason is not None, saving_due(session))
            if stopping or saving:
                save_session(session)
            if stopping:
                raise Interrupted(
                    f"{label} saved its state after step {step + 1} of {settings.num_steps} ({reason or 'another process'}); "
                    "run it again to go on"
                )


def _take_step(
    session: Session, step: int, on_device: Iterator[tuple[range, dict[str, Tensor]]], num_micro_batches: int
) -> StepTaken:
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
    return StepTaken(step, rate, total, torch.as_tensor(norm, dtype=torch.float32, device=total.device), waited)


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
