"""What this machine offers: installed packages against what is required, devices, threads, memory, disk space."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""Where a loaded NVIDIA driver says its version, also inside containers."""

TOOLS = ("git", "conda", "apptainer", "sbatch")
"""Programs outside Python that some ways of running the workflow use."""


@dataclass(frozen=True)
class PackageState:
    """One required or optional package; `extra` is None for what is always needed, `installed` is None where it is missing."""

    name: str
    needed: str
    installed: str | None
    extra: str | None

    @property
    def ok(self) -> bool:
        """Whether it is there in an allowed version."""
        return self.installed is not None and Requirement(f"{self.name}{self.needed}").specifier.contains(
            self.installed, prereleases=True
        )

    @property
    def remedy(self) -> str:
        """How to get it; empty where nothing is to be done."""
        if self.ok:
            return ""
        wanted = f"cdgmae[{self.extra}]" if self.extra else f"{self.name}{self.needed}"
        return f"pip install '{wanted}'"


def package_states(distribution: str = "cdgmae") -> list[PackageState]:
    """All packages that a distribution names in its metadata, the always needed ones first.

    Raises:
        ValueError: if the distribution itself is not installed.
    """
    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        raise ValueError(f"package {distribution} is not installed; run `pip install -e .` in its folder") from None
    return sorted(_states(lines), key=lambda state: (state.extra or "", state.name))


def _states(lines: list[str]) -> Iterator[PackageState]:
    for line in lines:
        requirement = Requirement(line)
        extra = next((name for name in _extras_in(str(requirement.marker or ""))), None)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra or ""}):
            continue  # for another platform or Python
        try:
            installed: str | None = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            installed = None
        yield PackageState(requirement.name, str(requirement.specifier), installed, extra)


def _extras_in(marker: str) -> Iterator[str]:
    for part in marker.replace("'", '"').split("extra == ")[1:]:
        yield part.split('"')[1]


def describe_machine(folder: Path) -> dict[str, str]:
    """The machine in words: Python, processor, memory, GPUs, disk space at `folder`, tools."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    described: dict[str, str] = {
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{cores} usable cores, torch uses {torch.get_num_threads()} threads",
        "memory": _memory(),
        "device": _devices(torch),
    }
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    described["disk"] = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB at {existing}"
    described["c compiler"] = c_compiler() or "not found; needed where runtime.compile is on"
    described["tools"] = ", ".join(f"{tool} {'found' if shutil.which(tool) else 'not found'}" for tool in TOOLS)
    return described


def c_compiler() -> str | None:
    """The C compiler with which torch.compile builds its kernels: that of CC, gcc or clang; None where there is none."""
    return next((path for name in (os.environ.get("CC"), "gcc", "clang") if name and (path := shutil.which(name))), None)


def compiler_problem() -> str | None:
    """What `runtime.compile` lacks on this machine; None if nothing."""
    if c_compiler() is not None:
        return None
    return (
        "runtime.compile is on, but there is no C compiler, with which torch.compile builds its kernels: install gcc (`module load gcc` on "
        "many clusters; an image built from envs/cdgmae.def has it), point CC to one, or set compile: false"
    )


def driver_version() -> str | None:
    """The version of the NVIDIA driver that this machine runs, e.g. 570.86.15; None where none is loaded or visible."""
    try:
        match = re.search(r"Kernel Module\D*(\d[\d.]+)", DRIVER_FILE.read_text(encoding="utf-8"))
    except OSError:
        return None
    return match.group(1) if match else None


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError, AttributeError):
        return "unknown"


def _devices(torch: Any) -> str:
    if not torch.cuda.is_available():
        return f"cpu only (torch {torch.__version__}, built for CUDA {torch.version.cuda or '-'}; no GPU is visible)"
    names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    shown = ", ".join(f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in names)
    return f"{len(names)} GPU(s): {shown} (CUDA {torch.version.cuda})"
