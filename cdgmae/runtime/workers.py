"""How many processes prepare batches beside one that trains."""

from __future__ import annotations

import os

import torch

from cdgmae.runtime.distribution import local_world_size
from cdgmae.settings.runtime import RuntimeSettings


def loader_workers(runtime: RuntimeSettings, device: torch.device) -> int:
    """Processes that prepare the batches of this process; 0 is one background thread.

    Args:
        runtime: Its `loader_workers`, if given, holds.
        device: Where this process trains.
    """
    if runtime.loader_workers is not None:
        return runtime.loader_workers
    return 0 if device.type == "cpu" else max(1, usable_cores() // local_world_size())


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
