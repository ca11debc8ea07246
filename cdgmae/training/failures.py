"""A loss that is not finite, or explodes: what was being trained on is written down before the training stops."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path
from statistics import fmean

from cdgmae.storage.files.atomic import write_text

FAILURE_FILE = "failure.json"
USUAL_STEPS = 100
"""Steps over which the usual loss is averaged; an explosion is judged only against that many."""


class LossWatch:
    """Judges each loss against the ones before it."""

    def __init__(self, max_ratio: float | None, losses: list[float]) -> None:
        """Start after `losses`.

        Args:
            max_ratio: Largest accepted ratio of a loss to the mean of the `USUAL_STEPS` before it; None accepts any finite loss.
            losses: Losses so far, at least the last `USUAL_STEPS`.
        """
        self._max_ratio = max_ratio
        self._last = deque(losses, maxlen=USUAL_STEPS)

    @property
    def last_losses(self) -> list[float]:
        """What a watch that goes on after this one must be started with."""
        return list(self._last)

    def problem(self, loss: float) -> str | None:
        """What is wrong with the next loss, or None."""
        if not math.isfinite(loss):
            return f"loss is {loss}"
        usual = fmean(self._last) if len(self._last) == USUAL_STEPS else math.inf
        if self._max_ratio is not None and loss > self._max_ratio * usual:
            return f"loss is {loss:.4g}, over {self._max_ratio:g} times the {usual:.4g} of the {USUAL_STEPS} steps before"
        self._last.append(loss)
        return None


def write_failure(work_dir: Path, problem: str, step: int, learning_rate: float, grad_norm: float, keys: list[str]) -> ValueError:
    """Write `failure.json` beside the saved states and return the error to raise.

    Args:
        work_dir: Folder of the training state.
        problem: What is wrong with the loss.
        step: The 0-based step.
        learning_rate: Learning rate of the step.
        grad_norm: Global gradient norm of the step.
        keys: Names of the samples of the step's global batch.
    """
    failure = {"problem": problem, "step": step, "learning_rate": learning_rate, "grad_norm": repr(grad_norm), "keys": keys}
    write_text(work_dir / FAILURE_FILE, json.dumps(failure, indent=2) + "\n")
    shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    return ValueError(
        f"{problem} at step {step} (learning rate {learning_rate:.3g}, gradient norm {grad_norm:.3g}); the last saved state stays. "
        f"Samples of the step: {shown} (all in {work_dir / FAILURE_FILE}). "
        "Lower the learning rate, clip the gradient norm, or use bf16/fp32 precision, and run it again."
    )
