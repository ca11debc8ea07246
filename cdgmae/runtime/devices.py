"""The device a job computes on, and its CPU threads."""

from __future__ import annotations

import os

import torch

from cdgmae.runtime.distribution import local_rank, local_world_size


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is a GPU if there is one, else the CPU. Of several processes on one node each gets a GPU of its own.

    Raises:
        ValueError: if `cuda` is asked for and there is none, or if a node has fewer GPUs than processes.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no GPU; use --device cpu or run `cdgmae doctor`")
    if name not in ("auto", "cuda"):
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if local_world_size() == 1 else _own_gpu()


def _own_gpu() -> torch.device:
    found = torch.cuda.device_count()
    if found < local_world_size():
        raise ValueError(
            f"{local_world_size()} processes on this node, but torch sees {found} GPU(s); one process needs one GPU: ask for as many "
            "GPUs per node as ranks (`gres` and `tasks_per_node` in the profile)"
        )
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device


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
