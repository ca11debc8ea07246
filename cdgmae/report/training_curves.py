"""What training left: loss curves and settings of pre-training runs and generators."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cdgmae.names import how_to_remake
from cdgmae.storage.tables import TableError, read_table

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""x and y of a drawn line."""

MAX_POINTS = 200
FINAL_SHARE = 0.05
METRICS_NAME = "metrics.parquet"
RUN_CONFIG = "config.json"
GENERATOR_METADATA = "cdgmae.json"

SHOWN_SETTINGS = (
    "source", "pretext", "num_anchors", "anchor_masking_ratio", "target_masking_ratio", "image_size", "patch_size", "embed_dim", "depth",
)  # fmt: skip
"""Settings of a run that its row in the page shows; all others are in the section on configuration."""


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """One training: a pre-training run with one seed, or a generator.

    Attributes:
        name: `run` or generator name.
        seed: Seed of the run; None for a generator.
        steps: Optimiser steps.
        epochs: Passes over the data, None where the metrics have no epochs.
        final_loss: Mean loss of the last 5 % of the steps.
        samples_per_second: Median over the steps.
        curve: At most `MAX_POINTS` points: epoch (or step) and the mean loss around it.
        config: What was stored beside the weights: settings, seed, version, inputs. Empty if there is nothing.
    """

    name: str
    seed: int | None
    steps: int
    epochs: float | None
    final_loss: float
    samples_per_second: float
    curve: Curve
    config: dict[str, Any]

    @property
    def label(self) -> str:
        """Name for legends: the run, and its seed if it has one."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """The run's settings as stored beside its weights."""
        settings = self.config.get("settings", {})
        return settings if isinstance(settings, dict) else {}

    @property
    def shown_settings(self) -> dict[str, Any]:
        """The few settings that tell runs apart."""
        return {name: self.settings[name] for name in SHOWN_SETTINGS if name in self.settings}


def read_runs(folder: Path, runs: Mapping[str, Sequence[int]]) -> list[TrainingLog]:
    """The runs (name -> seeds) that have metrics in `folder`/{run}/seed{n}, by run, then seed."""
    paths = {(run, seed): folder / run / f"seed{seed}" / METRICS_NAME for run, seeds in runs.items() for seed in seeds}
    present = ((run, seed, path) for (run, seed), path in sorted(paths.items()) if path.is_file())
    return [read_training(path, run, seed, _read_object(path.with_name(RUN_CONFIG))) for run, seed, path in present]


def read_generators(folder: Path, generators: Sequence[str]) -> list[TrainingLog]:
    """The generators that have metrics in `folder`/{name}, by name."""
    paths = {name: folder / name / METRICS_NAME for name in sorted(generators)}
    present = [(name, path, _read_object(path.with_name(GENERATOR_METADATA))) for name, path in paths.items() if path.is_file()]
    return [read_training(path, name, None, metadata.get("provenance", {})) for name, path, metadata in present]


def read_training(metrics: Path, name: str, seed: int | None, config: dict[str, Any]) -> TrainingLog:
    """The log of one training from its metrics table.

    Raises:
        TableError: if the metrics lack a column or hold no step.
    """
    table = read_table(metrics)
    missing = sorted({"step", "loss", "samples_per_second"} - set(table.column_names))
    if missing or table.num_rows == 0:
        lack = f"column(s) {', '.join(missing)}" if missing else "a single step"
        raise TableError(f"{metrics} lacks {lack}; {how_to_remake(metrics)}")
    loss = table["loss"].to_numpy().astype(np.float64)
    has_epochs = "epoch" in table.column_names
    position = table["epoch" if has_epochs else "step"].to_numpy().astype(np.float64)
    return TrainingLog(
        name, seed, steps=table.num_rows, epochs=_total_epochs(position) if has_epochs else None,
        final_loss=float(loss[-max(1, round(FINAL_SHARE * loss.size)) :].mean()),
        samples_per_second=statistics.median(table["samples_per_second"].to_pylist()),
        curve=_thin(position, loss), config=config,
    )  # fmt: skip


def _total_epochs(epoch: npt.NDArray[np.float64]) -> float:
    """Epochs count from the start of a step, so the last step adds its own length."""
    return float(epoch[-1] + (epoch[-1] - epoch[-2] if epoch.size > 1 else 0.0))


def _thin(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Curve:
    """Means over equal stretches of steps, so that a long run draws as small as a short one."""
    length = math.ceil(x.size / MAX_POINTS)
    starts = np.arange(0, x.size, length)
    counts = np.diff(starts, append=x.size)
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {how_to_remake(path)}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; {how_to_remake(path)}")
    return values
