"""The device a job computes on, and its CPU threads."""

from __future__ import annotations

import os

import torch

from cdgmae.runtime.distribution import local_rank, local_world_size
from cdgmae.runtime.environment import driver_version
from cdgmae.runtime.interrupts import TransientProblem

SLURM_GPU_VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
"""Where Slurm says which GPUs a job or step got; Snakemake's executor leaves some of them in place, `srun` sets them anew."""


def pick_device(name: str = "auto") -> torch.device:
    """The device that `runtime.device` names, for this process.

    `auto` is a GPU if there is one, else the CPU, but never the CPU where Slurm gave a GPU. Of several processes on one node each
    takes the GPU of its local rank, or the only one that it sees. `cuda:N` is that GPU, here and for whatever says `cuda` later on.

    Raises:
        TransientProblem: if a GPU was asked for, or given by Slurm, and torch sees none.
        ValueError: if there is no GPU of that number, or a node has fewer GPUs than processes.
    """
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        given = slurm_gpus()
        if name == "auto" and given is None:
            return torch.device("cpu")
        raise TransientProblem(why_no_gpu(given or f"`device: {name}` was asked for"))
    index = torch.device(name).index if name != "auto" else None
    if local_world_size() > 1:
        index = _index_of_rank(index)
    elif index is None:
        return torch.device("cuda")
    elif index >= torch.cuda.device_count():
        raise ValueError(f"device cuda:{index}, but torch sees {torch.cuda.device_count()} GPU(s), numbered from 0")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def _index_of_rank(asked: int | None) -> int:
    """The GPU of this process among several on its node."""
    if asked is not None:
        raise ValueError(
            f"device cuda:{asked} for {local_world_size()} processes on one node; say cuda, and each takes a GPU of its own"
        )
    count = torch.cuda.device_count()
    if count == 1:
        return 0  # bound to its own by Slurm (--gpus-per-task) or the site
    if count < local_world_size():
        raise ValueError(
            f"{local_world_size()} processes on this node, but torch sees {count} GPU(s); one process needs one GPU: ask for as many "
            "GPUs per node as ranks (`gres` and `tasks_per_node` in the profile)"
        )
    return local_rank()


def slurm_gpus() -> str | None:
    """In words which GPUs Slurm gave this job; None where it gave none or this is no Slurm job."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    for name in SLURM_GPU_VARIABLES:
        value = os.environ.get(name, "")
        if value and not (name == "SLURM_GPUS_ON_NODE" and value == "0"):
            return f"Slurm gave this job a GPU ({name}={value})"
    return None


def why_no_gpu(asked: str) -> str:
    """What to say where a GPU should be and torch sees none.

    Args:
        asked: Who wants a GPU, as the first half of a sentence.
    """
    driver = driver_version()
    build = f"torch {torch.__version__} was built for CUDA {torch.version.cuda}" if torch.version.cuda else (
        f"torch {torch.__version__} is a build without CUDA: install the ordinary one"
    )  # fmt: skip
    return (
        f"{asked}, but torch sees none. {build}; the NVIDIA driver here is {driver or 'not loaded or not visible'}. A driver that is too "
        "old for the build (CUDA 13 needs 580 or newer, CUDA 12 needs 525), a container without --nv and CUDA_VISIBLE_DEVICES "
        f"({os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}) are the usual causes; `cdgmae doctor --cluster` tries every class of nodes. "
        "If the CPU is meant, say `device: cpu`."
    )


def worker_devices(device: torch.device, workers: int | None) -> list[torch.device]:
    """One device per worker process: by default every visible GPU once, or the CPU once; more workers go round.

    Args:
        device: `cuda` stands for all visible GPUs, `cuda:1` for that one.
        workers: Number of processes, from 1.
    """
    places = [device]
    if device.type == "cuda" and device.index is None:
        places = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [places[index % len(places)] for index in range(workers or len(places))]


def limit_threads(threads: int | None) -> None:
    """Use at most this many CPU threads for tensor operations; None leaves torch's choice."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
