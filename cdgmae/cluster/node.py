"""What one task of a Slurm job finds on its node: GPUs, memory, versions, write speed, and whether the tasks find each other."""

from __future__ import annotations

import datetime
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cdgmae.runtime.distribution import rendezvous_port
from cdgmae.runtime.environment import c_compiler, compiler_problem
from cdgmae.storage.files.atomic import write_text

WRITE_BYTES = 64 * 2**20
BLOCK_BYTES = 4 * 2**20
RENDEZVOUS_SECONDS = 60


def probe_node(
    folder: Path, reports: Path, *, compiles: bool = False, load_networks: Callable[[], Mapping[str, list[str]]] | None = None
) -> dict[str, Any]:
    """Look around, and write the findings to `reports`/RANK.json.

    Args:
        folder: The working folder, whose write speed is measured (by the first task alone).
        reports: An existing folder that all nodes and the submitting host share.
        compiles: Whether jobs will use torch.compile, so that a missing C compiler is a problem.
        load_networks: Called by the first task: the `networks` that jobs would take from the hub and that load here, and `problems`.

    Returns:
        The report of this task, as written; `problems` lists in words what does not work.
    """
    rank, num_tasks = int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_NTASKS", "1"))
    problems: list[str] = []
    report: dict[str, Any] = {
        "task": rank,
        "tasks": num_tasks,
        "node": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        "cores": len(os.sched_getaffinity(0)),
        "node_memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "job_memory_mib": int(granted) if (granted := os.environ.get("SLURM_MEM_PER_NODE")) else None,
        "c_compiler": c_compiler(),
        **_gpu_report(problems),
    }
    if compiles and (problem := compiler_problem()) is not None:
        problems.append(problem)
    if rank == 0:
        report["write_mb_per_s"] = _write_speed(folder, problems)
        if load_networks is not None:
            loaded = load_networks()
            report["networks"] = ", ".join(loaded["networks"]) or None
            problems += loaded["problems"]
    if num_tasks > 1:
        report["rendezvous"] = _rendezvous(rank, num_tasks, problems)
    report["problems"] = problems
    write_text(reports / f"{rank}.json", json.dumps(report))
    return report


def _gpu_report(problems: list[str]) -> dict[str, Any]:
    import torch

    from cdgmae.runtime.devices import slurm_gpus, why_no_gpu

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    if (given := slurm_gpus()) is not None and not devices:
        problems.append(why_no_gpu(given))
    return {
        "gpus": [f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in devices],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.version.cuda else None,
    }


def _write_speed(folder: Path, problems: list[str]) -> float | None:
    """MB per second of one flushed file of 64 MiB; None, and a problem, if it cannot be written."""
    block = os.urandom(BLOCK_BYTES)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".cdgmae-write-") as file:
            started = time.perf_counter()
            for _ in range(WRITE_BYTES // BLOCK_BYTES):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return round(WRITE_BYTES / 1e6 / (time.perf_counter() - started), 1)
    except OSError as error:
        problems.append(f"{folder} cannot be written from this node: {error.strerror}")
        return None


def _rendezvous(rank: int, num_tasks: int, problems: list[str]) -> str | None:
    """Sum one number over all tasks, with NCCL where the task has a GPU, else gloo; None, and a problem, if that fails."""
    import torch
    from torch import distributed

    local = int(os.environ.get("SLURM_LOCALID", "0"))
    on_gpu = torch.cuda.is_available()
    backend = "nccl" if on_gpu else "gloo"
    device = torch.device("cuda", local % torch.cuda.device_count()) if on_gpu else torch.device("cpu")
    address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    port = rendezvous_port(int(os.environ["SLURM_JOB_ID"]))
    started = time.perf_counter()
    if on_gpu:
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group(
            backend, init_method=f"tcp://{address}:{port}", rank=rank, world_size=num_tasks,
            timeout=datetime.timedelta(seconds=RENDEZVOUS_SECONDS),
        )  # fmt: skip
        total = torch.ones(1, device=device)
        distributed.all_reduce(total)
        ranks = int(total.item())
        distributed.destroy_process_group()
    except (RuntimeError, ValueError) as error:
        problems.append(f"{backend} rendezvous of {num_tasks} tasks at {address}:{port} failed: {str(error).splitlines()[0]}")
        return None
    if ranks != num_tasks:
        problems.append(f"{backend} rendezvous found {ranks} tasks instead of {num_tasks}")
    return f"{backend}, {ranks} tasks in {time.perf_counter() - started:.1f} s"
