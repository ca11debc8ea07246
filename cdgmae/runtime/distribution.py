"""Which of several cooperating processes this one is, as launchers (`cdgmae cluster launch`, `torchrun`, `accelerate launch`) tell it.

Without a launcher there is one process, rank 0 of 1.
"""

from __future__ import annotations

import os

WORLD_SIZE_VARIABLE = "CDGMAE_WORLD_SIZE"
"""How many processes `cdgmae cluster launch` was asked for."""

FIRST_PORT, NUM_PORTS = 20_000, 12_000
"""Ports of the rendezvous, by job id: above the well-known ones, below those that Linux hands out itself."""


def join_group() -> None:
    """Take the place that `cdgmae cluster launch` gave this process; without that command nothing happens.

    Tasks of a Slurm step get the variables that torchrun would set: the first node's address, and a port that follows from the job id.

    Raises:
        ValueError: if there are not as many processes as were asked for.
    """
    asked = os.environ.get(WORLD_SIZE_VARIABLE)
    if asked is None:
        return
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        os.environ.update(_place_in_slurm_step())
    if world_size() != int(asked):
        raise ValueError(
            f"{asked} processes were asked for (nodes x ranks per node), but {world_size()} were started; make `nodes` and "
            "`tasks_per_node` of this rule in the profile agree with what the job gets, or give `cdgmae cluster launch` other numbers"
        )


def _place_in_slurm_step() -> dict[str, str]:
    tasks, nodes = int(os.environ["SLURM_STEP_NUM_TASKS"]), int(os.environ["SLURM_STEP_NUM_NODES"])
    return {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(tasks // nodes),
        "MASTER_ADDR": os.environ["SLURM_LAUNCH_NODE_IPADDR"],  # srun runs on the first node, where rank 0 is
        "MASTER_PORT": str(rendezvous_port(int(os.environ["SLURM_JOB_ID"]))),
    }


def rendezvous_port(job: int) -> int:
    """The TCP port at which the tasks of a Slurm job meet."""
    return FIRST_PORT + job % NUM_PORTS


def rank() -> int:
    """Number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes, over all nodes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Number of this process among those on its node, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


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
