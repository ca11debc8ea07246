"""A GPU whose memory does not suffice: said in one paragraph, with the setting to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cdgmae.runtime.interrupts import OutOfDeviceMemory

OTHER_WORDS = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Cuda failure 2 'out of memory'",
)
"""How libraries below torch say it, in errors of no class of its own."""


@contextmanager
def explain_memory(device: torch.device, setting: str, value: object = None) -> Iterator[None]:
    """Turn torch's error into one that names the setting to change.

    Args:
        device: Where is computed.
        setting: Key of the configuration whose value decides how much is computed at once.
        value: Its present value, if it has one.

    Raises:
        OutOfDeviceMemory: when the memory does not suffice.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        now = "" if value is None else f" (now {value})"
        raise OutOfDeviceMemory(
            f"the memory of {device} does not suffice: {str(error).splitlines()[0]} Lower {setting}{now} and run it again; whatever is "
            "finished is kept."
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OTHER_WORDS)
    )
