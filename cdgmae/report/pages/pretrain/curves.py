"""Curves of all runs over their steps, thinned by one rule so that long and many runs stay quick to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cdgmae.report.training_curves import METRICS_NAME, TrainingLog
from cdgmae.storage.tables import read_table

Values = npt.NDArray[np.float64]

MAX_POINTS, MIN_POINTS = 200, 40
POINT_BUDGET = 2400
"""Points of all runs in one chart."""

DIGITS = 5
"""Significant digits of drawn values."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One chart.

    Attributes:
        column: Of the metrics table.
        title: Heading of the chart.
        axis: Title of its vertical axis.
        format: d3 format of a value.
        axis_format: d3 format of the axis.
        harmonic: Whether the mean of a stretch is the harmonic one: a rate over equal amounts of work.
    """

    column: str
    title: str
    axis: str
    format: str
    axis_format: str
    harmonic: bool = False


METRICS = (
    Metric("loss", "Loss", "mean squared error", ".4f", "~g"),
    Metric("learning_rate", "Learning rate", "learning rate", ".3~g", "~g"),
    Metric("samples_per_second", "Throughput", "samples per second", ",.1f", ",~f", harmonic=True),
    Metric("data_wait_share", "Waiting for data", "share of the time", ".2%", "~%"),
)


def common_length(runs: Sequence[TrainingLog]) -> int:
    """Steps of a stretch, such that the longest run has at most `MAX_POINTS`, and all runs together keep to `POINT_BUDGET`.

    With many runs `MIN_POINTS` of each count more than the budget.
    """
    points = min(MAX_POINTS, max(MIN_POINTS, POINT_BUDGET // max(1, len(runs))))
    return max((math.ceil(run.steps / points) for run in runs), default=1)


def stretches(num_steps: int, length: int) -> npt.NDArray[np.int64]:
    """First steps of equal stretches (the last may be shorter), counted from 0.

    Args:
        num_steps: Steps of the run.
        length: Steps of a stretch; a run that would have fewer than `MIN_POINTS` of them gets shorter ones.
    """
    return np.arange(0, num_steps, max(1, min(length, num_steps // MIN_POINTS)))


def thin(values: Values, starts: npt.NDArray[np.int64], *, harmonic: bool = False) -> dict[str, list[float]]:
    """Mean, lowest and highest value of every stretch, rounded to `DIGITS` significant digits.

    Args:
        values: One per step.
        starts: First steps of the stretches.
        harmonic: Take the harmonic mean, which of a rate per step is the rate over all its steps; 0 if any value is 0.
    """
    counts = np.diff(starts, append=values.size)
    if harmonic:
        with np.errstate(divide="ignore"):
            means = counts / np.add.reduceat(1.0 / values, starts)
    else:
        means = np.add.reduceat(values, starts) / counts
    parts = {"mean": means, "low": np.minimum.reduceat(values, starts), "high": np.maximum.reduceat(values, starts)}
    return {name: [_rounded(value) for value in part.tolist()] for name, part in parts.items()}


def read_curves(folder: Path, runs: Sequence[TrainingLog]) -> list[dict[str, Any]]:
    """Every run as the page's script reads it, in the order of `runs`.

    Args:
        folder: Folder with RUN/seedN/metrics.parquet.
        runs: Runs to read, whose metrics hold at least one step.

    Returns:
        `label`, `first` and `last` step of every stretch, and per metric column `mean`, `low` and `high` of every stretch, or None
        where the column is not recorded.
    """
    length = common_length(runs)
    curves = []
    for run in runs:
        table = read_table(folder / run.name / f"seed{run.seed}" / METRICS_NAME)
        steps = table["step"].to_numpy()
        starts = stretches(steps.size, length)
        ends = np.append(starts[1:], steps.size) - 1
        curve: dict[str, Any] = {"label": run.label, "first": steps[starts].tolist(), "last": steps[ends].tolist()}
        for metric in METRICS:
            known = metric.column in table.column_names
            values = table[metric.column].to_numpy().astype(np.float64) if known else None
            curve[metric.column] = None if values is None else thin(values, starts, harmonic=metric.harmonic)
        curves.append(curve)
    return curves


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
