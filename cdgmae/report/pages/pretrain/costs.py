"""What each run cost: time, throughput, waiting for data, operations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cdgmae.pretrain.flops import count_flops
from cdgmae.report.training_curves import METRICS_NAME, TrainingLog
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.tables import read_table


@dataclass(frozen=True, slots=True)
class RunCosts:
    """One row of the table of runs; None where the files do not say.

    Attributes:
        run: The run.
        batch_size: Samples per step.
        seconds: Time in the steps that count: each step's samples by its throughput. Without start, saved states and repeated steps.
        waited: Share of that time spent waiting for data.
        gflops: Of one sample's forward pass in the paper's convention.
    """

    run: TrainingLog
    batch_size: int | None
    seconds: float | None
    waited: float | None
    gflops: float | None

    @property
    def duration(self) -> str:
        """E.g. `2 h 05 min`, `1 min 09 s`, or `not recorded`."""
        return "not recorded" if self.seconds is None else describe_seconds(self.seconds)


def read_costs(folder: Path, run: TrainingLog) -> RunCosts:
    """Costs of a run from its metrics in `folder`/RUN/seedN and its settings."""
    table = read_table(folder / run.name / f"seed{run.seed}" / METRICS_NAME)
    settings = _read_settings(run)
    batch_size = run.settings.get("effective_batch_size")
    rates = table["samples_per_second"].to_numpy().astype(np.float64)
    waited = table["data_wait_share"].to_numpy().astype(np.float64) if "data_wait_share" in table.column_names else None
    times = 1.0 / rates if rates.min() > 0 else None  # up to the batch size, which is the same in all steps
    return RunCosts(
        run,
        batch_size=batch_size if isinstance(batch_size, int) else None,
        seconds=float(times.sum() * batch_size) if times is not None and isinstance(batch_size, int) else None,
        waited=float((waited * times).sum() / times.sum()) if waited is not None and times is not None else None,
        gflops=None if settings is None else count_flops(settings).paper / 1e9,
    )


def describe_seconds(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.1f} s"


def _read_settings(run: TrainingLog) -> PretrainRunSettings | None:
    """The run's settings, or None if they are not recorded or of another version."""
    try:
        return PretrainRunSettings.from_plain(run.settings) if run.settings else None
    except ValidationError:
        return None
