"""Which of several cooperating processes this one is, as launchers (`accelerate launch`, `torchrun`, Slurm wrappers of them) tell it.

Without a launcher there is one process, rank 0 of 1.
"""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes, over all nodes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Number of processes on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))


def is_main_process() -> bool:
    """Whether this is the one process that writes files and talks."""
    return rank() == 0


def share_of(samples: range, part: int, num_parts: int) -> range:
    """The `part`-th of `num_parts` consecutive parts of `samples`, whose sizes differ by at most one."""
    size = len(samples)
    return samples[size * part // num_parts : size * (part + 1) // num_parts]
