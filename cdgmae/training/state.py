"""The full training state on disk: atomic, safe to load, and bound to the settings it belongs to."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdgmae.storage.atomic import atomic_file

logger = logging.getLogger("cdgmae")

STATE_FILE = "state.pt"


@dataclass(slots=True)
class TrainingState:
    """Everything needed to go on as if nothing had happened.

    Random draws are pure functions of (seed, step), so no generator state is part of it.
    """

    identity: str
    step: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] | None = None
    ema: dict[str, Tensor] | None = None
    metrics: dict[str, list[float]] = field(default_factory=dict)


def save_state(work_dir: Path, state: TrainingState) -> None:
    """Write the state; the previous one stays until the new one is whole."""
    with atomic_file(work_dir / STATE_FILE) as temporary:
        torch.save({name: getattr(state, name) for name in TrainingState.__slots__}, temporary)


def load_state(work_dir: Path, identity: str) -> TrainingState | None:
    """The saved state, or None if there is none, it belongs to other settings, or it cannot be read."""
    path = work_dir / STATE_FILE
    if not path.is_file():
        return None
    try:
        state = TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever is wrong with it, training from the start is right
        logger.warning("saved state %s cannot be read (%s: %s): starting from the first step", path, type(error).__name__, error)
        return None
    if state.identity != identity:
        logger.warning("saved state %s belongs to other settings: starting from the first step", path)
        return None
    return state
