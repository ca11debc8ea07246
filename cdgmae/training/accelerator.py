"""A training's view of the devices, and the trackers that mirror its metrics; nothing here changes what is learned beyond rounding."""

from __future__ import annotations

import importlib.util
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from cdgmae.runtime.compute import Compute, start_compute
from cdgmae.settings.runtime import RuntimeSettings

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
READ_EVERY = 16
"""Steps between two looks at the losses on a GPU, where each look waits for the device; on a CPU every step is looked at."""


def start_training_compute(runtime: RuntimeSettings) -> Compute:
    """See `start_compute`; the first thing a training calls.

    Raises:
        ValueError: also for a tracker that is not installed.
    """
    absent = [name for name in runtime.trackers if importlib.util.find_spec(name) is None]
    if absent:
        raise ValueError(f"trackers {', '.join(absent)}: not installed; `pip install {' '.join(absent)}`, or leave them out")
    return start_compute(runtime)


def open_accelerator(runtime: RuntimeSettings, tracker_dir: Path | None = None) -> Accelerator:
    """The launcher-aware view of the devices; starts the process group where there are several processes.

    Args:
        runtime: Where and how precisely to compute, and the trackers.
        tracker_dir: Folder for trackers that write files; None switches all trackers off.
    """
    compute = start_compute(runtime)
    return Accelerator(
        mixed_precision=MIXED_PRECISION[compute.precision],
        cpu=compute.device.type == "cpu",
        log_with=(list(runtime.trackers) or None) if tracker_dir is not None else None,
        project_dir=tracker_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=runtime.process_group_timeout_minutes))],
    )


def start_trackers(accelerator: Accelerator, runtime: RuntimeSettings, tracker_dir: Path | None, run: str, run_id: str) -> None:
    """Open the trackers of a run; one that is resumed goes on in the same tracker run.

    Everything stays on this machine unless the environment says otherwise: compute nodes often have no network.
    """
    if not accelerator.log_with or tracker_dir is None:
        return
    folder = str(tracker_dir)
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    os.environ.setdefault("TRACKIO_DIR", f"{folder}/trackio")
    tracker_dir.mkdir(parents=True, exist_ok=True)
    options: dict[str, dict[str, Any]] = {
        "wandb": {"id": run_id, "name": run, "resume": "allow", "dir": folder},
        "trackio": {"name": run_id, "resume": "allow"},
        "mlflow": {"run_name": run_id, "logging_dir": f"{folder}/mlflow"},
    }
    # TensorBoard takes its first argument as the folder's name, the others as the name of the project.
    accelerator.init_trackers("tensorboard" if runtime.trackers == ["tensorboard"] else "cdgmae", init_kwargs=options)
