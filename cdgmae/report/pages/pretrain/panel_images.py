"""Reconstruction panels of all runs, reduced for the page: a few of each run, always the first and the last."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cdgmae.report.bag_thumbnails import evenly_spaced
from cdgmae.report.training_curves import TrainingLog
from cdgmae.storage.files.atomic import write_bytes
from cdgmae.storage.media.images import encode_jpeg

IMAGES = "panels"
MAX_WIDTH = 1080
QUALITY = 75
MAX_PER_RUN, MIN_PER_RUN = 8, 3
PANEL_BUDGET = 48
"""Panels on the page; with many runs each shows fewer, down to `MIN_PER_RUN`."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One image: the steps taken before it was painted, its file relative to the page, its size in pixels."""

    step: int
    file: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class RunPanels:
    """The panels of one run.

    Attributes:
        run: The run, with its lowest seed.
        found: Number of panels that the run left.
        panels: Those shown, in order of steps; none if the run left none.
    """

    run: TrainingLog
    found: int
    panels: list[Panel]


def show_panels(folder: Path, runs: list[TrainingLog], output: Path) -> list[RunPanels]:
    """Write reduced panels of every run's lowest seed below `output`/panels, which is emptied first.

    Args:
        folder: Folder with RUN/seedN/panels.
        runs: All runs, by name and seed.
        output: Folder of the page.
    """
    shutil.rmtree(output / IMAGES, ignore_errors=True)
    first_seeds = {run.name: run for run in reversed(runs)}
    shown = sorted(first_seeds.values(), key=lambda run: run.name)
    count = min(MAX_PER_RUN, max(MIN_PER_RUN, PANEL_BUDGET // max(1, len(shown))))
    return [_show_run(folder, run, number, count, output) for number, run in enumerate(shown)]


def _show_run(folder: Path, run: TrainingLog, number: int, count: int, output: Path) -> RunPanels:
    images = (folder / run.name / f"seed{run.seed}" / IMAGES).glob("step*.png")
    steps = sorted((int(name[1]), path) for path in images if (name := re.fullmatch(r"step(\d+)\.png", path.name)))
    panels = []
    for step, path in (steps[place] for place in evenly_spaced(len(steps), count)):
        with Image.open(path) as image:
            panel = image.convert("RGB")
        panel.thumbnail((MAX_WIDTH, panel.height), Image.Resampling.LANCZOS)
        file = f"{IMAGES}/{number:03d}-{step:08d}.jpg"
        write_bytes(output / file, encode_jpeg(panel, QUALITY))
        panels.append(Panel(step, file, *panel.size))
    return RunPanels(run, len(steps), panels)
