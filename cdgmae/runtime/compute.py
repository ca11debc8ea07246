"""Where and how precisely a process computes: `runtime.device` and `runtime.precision` with their `auto` resolved, said once in the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

import torch

from cdgmae.runtime.devices import pick_device
from cdgmae.runtime.distribution import is_main_process
from cdgmae.settings.runtime import RuntimeSettings

logger = logging.getLogger("cdgmae")


@dataclass(frozen=True, slots=True)
class Compute:
    """What `start_compute` chose.

    Attributes:
        device: This process's device.
        precision: fp32, bf16 or fp16; what tables and states name as their precision.
    """

    device: torch.device
    precision: str


def start_compute(runtime: RuntimeSettings, *, precision: str | None = None, exact: bool = False) -> Compute:
    """Choose device and precision, set what float32 means on a GPU, and log it: the first thing that whatever computes calls.

    Args:
        runtime: The machine settings.
        precision: That of a stage whose precision is part of its protocol; None takes that of `runtime`.
        exact: Keep work in float32 exact, whatever the precision.

    Raises:
        ValueError: if the device is not there, or cannot compute in the precision.
    """
    device = pick_device(runtime.device)
    chosen = resolve_precision(precision or runtime.precision, device)
    meaning = set_float32_meaning(device, "fp32" if exact else chosen)
    if is_main_process():
        _log_once(f"computing on {describe_device(device)}, precision {chosen}{meaning}, torch {torch.__version__}")
    return Compute(device, chosen)


def resolve_precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or fp16: `auto` is bf16 on a GPU that has it, else fp32.

    Raises:
        ValueError: if the device cannot compute in it.
    """
    if device.type == "cpu":
        if name == "fp16":
            raise ValueError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
        return "fp32" if name == "auto" else name
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and not has_bf16:
        raise ValueError(f"precision bf16: {torch.cuda.get_device_name(device)} does not compute in it; use fp16 or fp32")
    return ("bf16" if has_bf16 else "fp32") if name == "auto" else name


def set_float32_meaning(device: torch.device, precision: str) -> str:
    """One rule for matrix products and convolutions in float32 on a GPU.

    With precision fp32 both keep all 24 bits. Beside bf16 and fp16 what is left in float32 may round its factors to TF32 (11 bits, which
    is finer than bf16's 8): resampling, a first stage. On a CPU nothing changes. Without this, torch's defaults round convolutions alone.

    Returns:
        The rule in words, for a log line; empty on a CPU.
    """
    if device.type == "cpu":
        return ""
    exact = precision == "fp32"
    # The older of torch's two ways to say this: it fails where a library beside us used the other one, and all still use this.
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
    return f" (float32 products and convolutions {'without' if exact else 'in'} TF32)"


def describe_device(device: torch.device) -> str:
    """A device in words: its name, memory, and CUDA version."""
    if device.type == "cpu":
        return f"the CPU with {torch.get_num_threads()} thread(s)"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name} ({device}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda})"


@cache
def _log_once(line: str) -> None:
    logger.info(line)
