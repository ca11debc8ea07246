"""The device a job computes on, and its CPU threads."""

from __future__ import annotations

import os

import torch


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is a GPU if there is one, else the CPU.

    Raises:
        ValueError: if `cuda` is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no GPU; use --device cpu or run `cdgmae doctor`")
    return torch.device(name)


def pick_devices(name: str = "auto", processes: int | None = None) -> list[torch.device]:
    """The devices of a job that can use several, one entry per process.

    Args:
        name: As for `pick_device`.
        processes: How many; None is one per visible GPU, or one on the CPU. More than there are GPUs share them in turn.

    Raises:
        ValueError: if `cuda` is asked for and there is none, or the number is below 1.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"{processes} processes were asked for; give 1 or more, or leave the number out (one per GPU)")
    device = pick_device(name)
    if device.type != "cuda" or device.index is not None:
        return [device] * (processes or 1)
    count = torch.cuda.device_count()
    return [torch.device("cuda", number % count) for number in range(processes or count)]


def limit_threads(threads: int | None) -> None:
    """Use at most this many CPU threads for tensor operations; None leaves torch's choice."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
