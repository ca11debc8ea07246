"""How many processes prepare batches beside one that trains."""

from __future__ import annotations

import os
from collections.abc import Mapping

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
    if device.type == "cpu":
        return 0
    return loader_processes(usable_cores(), local_world_size(), cores_of_step(os.environ))


def loader_processes(usable: int, ranks: int, step_cores: int | None) -> int:
    """Loader processes of one rank: its own cores but one, on which it launches kernels and copies; at least 1.

    Args:
        usable: Cores that this rank may run on.
        ranks: Ranks on its node.
        step_cores: Cores of the Slurm step on this node if `srun` started each rank, else None. A rank that may run on fewer has
            been bound to cores of its own; one that may run on all of them, or that another launcher started, shares them.
    """
    is_bound = step_cores is not None and usable < step_cores
    own = usable if is_bound else usable // max(1, ranks)
    return max(1, own - 1)


def cores_of_step(environment: Mapping[str, str]) -> int | None:
    """Cores of the Slurm step on this node, where `srun` started the ranks themselves; None under torchrun and outside Slurm."""
    if "TORCHELASTIC_RUN_ID" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return None
    cores = environment.get("SLURM_CPUS_ON_NODE")
    return int(cores) if cores else None


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
