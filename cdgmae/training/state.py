"""The full training state on disk: atomic, safe to load, and bound to the settings it belongs to."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdgmae.storage.files.sealed import drop_if_damaged, remove_sealed, sealed_file

logger = logging.getLogger("cdgmae")

STATE_PATTERN = "state-*.pt"


@dataclass(slots=True)
class TrainingState:
    """Everything needed to go on as if nothing had happened, at any number of processes.

    Random draws are pure functions of (seed, step, sample), and the epoch follows from the step, so neither is part of it.
    """

    identity: str
    step: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] | None = None
    ema: dict[str, Tensor] | None = None
    last_losses: list[float] = field(default_factory=list)


def state_path(work_dir: Path, step: int) -> Path:
    """File of the state after `step` steps."""
    return work_dir / f"state-{step:09d}.pt"


def save_state(work_dir: Path, state: TrainingState, num_states: int = 2) -> None:
    """Write the state, then remove all but the newest `num_states`; the former ones stay until the new one is whole.

    Raises:
        ValueError: if it cannot be written (disk full, no permission); the former states stay.
    """
    path = state_path(work_dir, state.step)
    with sealed_file(path) as temporary:
        try:
            torch.save({name: getattr(state, name) for name in TrainingState.__slots__}, temporary)
        except RuntimeError as error:  # torch's file writer reports a full disk so
            raise OSError(str(error).splitlines()[0]) from error
    for old in sorted(work_dir.glob(STATE_PATTERN))[:-num_states]:
        remove_sealed(old)


def load_state(work_dir: Path, identity: str) -> TrainingState | None:
    """The newest saved state that is as it was written and belongs to `identity`, or None."""
    for path in sorted(work_dir.glob(STATE_PATTERN), reverse=True):
        if not drop_if_damaged(path):
            continue
        try:
            state = TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # whatever is wrong with it, an older state or a fresh start is right
            logger.warning("saved state %s cannot be read (%s: %s)", path, type(error).__name__, error)
            continue
        if state.identity == identity:
            return state
        logger.warning("saved state %s belongs to other settings", path)
    return None
