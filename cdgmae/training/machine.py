"""How a training runs on this machine: nothing here changes what is learned beyond floating-point rounding."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from cdgmae.runtime.distribution import is_main_process, local_world_size, world_size
from cdgmae.settings.runtime import TRACKERS

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
READ_EVERY = 16
"""Steps between two looks at the losses on a GPU, where each look waits for the device; on a CPU every step is looked at."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine decides about a training.

    Attributes:
        device: Where to train; under a launcher each process takes the device of its local rank.
        precision: `fp32`, `bf16` or `fp16` (autocast; fp16 with loss scaling).
        micro_batch_size: Largest number of samples in one forward pass; None takes a process's whole share of the batch. Gradients
            are accumulated over the parts.
        loader_workers: Processes that prepare batches; 0 is one background thread; None chooses: 0 on a CPU, else a process's
            share of the cores.
        compile: Compile the model with `torch.compile`.
        log_interval_seconds: Time between two progress lines.
        checkpoint_interval_seconds: Time between two saved states.
        checkpoint_interval_steps: Steps between two saved states, besides the time; None for time alone.
        keep_checkpoints: Saved states that are kept, the newest ones.
        trackers: Experiment trackers that mirror the metrics.
        tracker_dir: Folder for trackers that write files; None switches all trackers off.
    """

    device: torch.device
    precision: str = "fp32"
    micro_batch_size: int | None = None
    loader_workers: int | None = None
    compile: bool = False
    log_interval_seconds: float = 30.0
    checkpoint_interval_seconds: float = 900.0
    checkpoint_interval_steps: int | None = None
    keep_checkpoints: int = 2
    trackers: tuple[str, ...] = ()
    tracker_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.precision == "fp16" and self.device.type == "cpu":
            raise ValueError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
        unknown = sorted(set(self.trackers) - set(TRACKERS))
        if unknown:
            raise ValueError(f"trackers {', '.join(unknown)}: no such tracker; allowed: {', '.join(TRACKERS)}")
        absent = [name for name in self.trackers if importlib.util.find_spec(name) is None]
        if absent:
            raise ValueError(f"trackers {', '.join(absent)}: not installed; `pip install {' '.join(absent)}`, or leave them out")

    @property
    def resolved_loader_workers(self) -> int:
        """`loader_workers`, or the choice made where it is None."""
        if self.loader_workers is not None:
            return self.loader_workers
        return 0 if self.device.type == "cpu" else max(1, _usable_cores() // local_world_size())

    @property
    def read_every(self) -> int:
        """Steps between two looks at the losses."""
        return 1 if self.device.type == "cpu" else READ_EVERY

    def accelerator(self) -> Accelerator:
        """The launcher-aware view of the devices; starts the process group where there are several processes."""
        tracked = self.trackers if self.tracker_dir is not None else ()
        return Accelerator(
            mixed_precision=PRECISIONS[self.precision],
            cpu=self.device.type == "cpu",
            log_with=list(tracked) or None,
            project_dir=self.tracker_dir,
        )

    def main_process_found(self, found: bool) -> bool:
        """Whether the main process found the result finished; every process must ask, so that all leave together or none does.

        Args:
            found: What this process found; counts on the main process alone.
        """
        if world_size() == 1:
            return found
        accelerator = self.accelerator()
        vote = torch.tensor(float(found and is_main_process()), device=accelerator.device)
        agreed = bool(accelerator.reduce(vote, "sum") > 0)
        if agreed:
            accelerator.end_training()
        return agreed

    def start_trackers(self, accelerator: Accelerator, run: str, run_id: str) -> None:
        """Open the trackers of a run; one that is resumed goes on in the same tracker run.

        Everything stays on this machine unless the environment says otherwise: compute nodes often have no network.
        """
        if not accelerator.log_with or self.tracker_dir is None:
            return
        folder = str(self.tracker_dir)
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        os.environ.setdefault("TRACKIO_DIR", f"{folder}/trackio")
        self.tracker_dir.mkdir(parents=True, exist_ok=True)
        options: dict[str, dict[str, Any]] = {
            "wandb": {"id": run_id, "name": run, "resume": "allow", "dir": folder},
            "trackio": {"name": run_id, "resume": "allow"},
            "mlflow": {"run_name": run_id, "logging_dir": f"{folder}/mlflow"},
        }
        # TensorBoard takes its first argument as the folder's name, the others as the name of the project.
        accelerator.init_trackers("tensorboard" if self.trackers == ("tensorboard",) else "cdgmae", init_kwargs=options)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
