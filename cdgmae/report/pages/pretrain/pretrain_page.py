"""Writes the page on pre-training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdgmae.report.pages.pretrain.costs import read_costs
from cdgmae.report.pages.pretrain.curves import METRICS, MIN_POINTS, common_length, read_curves
from cdgmae.report.pages.pretrain.panel_images import show_panels
from cdgmae.report.rendering import write_page
from cdgmae.report.svg_figures import LINE_STYLES, PALETTE
from cdgmae.report.training_curves import TrainingLog
from cdgmae.settings.report import ReportSettings
from cdgmae.storage.files.atomic import write_text

PRETRAIN_PAGE = "pretrain/index.html"
DATA_NAME = "data.js"
PRETRAIN_ASSETS = ("pretrain_curves.js", "pretrain_panels.js")
"""What the page needs in the report's folder of assets, besides what all pages share."""

DASHES = {"-": "", "--": "7 4", "-.": "7 3 2 3", ":": "2 3"}
"""Line style of the figures -> SVG dash array."""


def write_pretrain_page(
    settings: ReportSettings, results: Path, output: Path, runs: list[TrainingLog], unfinished: Sequence[str] = ()
) -> dict[str, Any]:
    """Write `pretrain/index.html` with `data.js` and `panels/` beside it.

    Args:
        settings: Title.
        results: Folder with the results of the stages.
        output: Folder of the report, which holds the shared scripts.
        runs: All runs with metrics, by name and seed; none if the stage has not been run.
        unfinished: Runs that the configuration names and that have no metrics, as `RUN, seed N`.

    Returns:
        `panels`: number of reconstruction panels on the page.
    """
    folder, page_folder = results / "pretrain", (output / PRETRAIN_PAGE).parent
    shown = show_panels(folder, runs, page_folder)
    styles = [_style(number) for number in range(len(runs))]
    curves = [{**curve, **style} for curve, style in zip(read_curves(folder, runs), styles, strict=True)]
    charts = [
        {"column": metric.column, "axis": metric.axis, "format": metric.format, "axisFormat": metric.axis_format}
        for metric in METRICS
    ]
    data = {"metrics": charts, "runs": curves}
    write_text(page_folder / DATA_NAME, f"const pretrainData = {json.dumps(data, separators=(',', ':'))};\n")
    write_page(
        output, PRETRAIN_PAGE, "pretrain_page.html.j2", settings=settings, costs=[read_costs(folder, run) for run in runs], styles=styles,
        metrics=METRICS, shown=shown, length=common_length(runs), min_points=MIN_POINTS, unfinished=unfinished, assets=PRETRAIN_ASSETS,
        unrecorded={metric.title: [curve["label"] for curve in curves if curve[metric.column] is None] for metric in METRICS},
    )  # fmt: skip
    return {"panels": sum(len(run.panels) for run in shown)}


def _style(number: int) -> dict[str, str]:
    """Colour and dash of the run at this place, as in the figure on the overview."""
    dash = LINE_STYLES[number // len(PALETTE) % len(LINE_STYLES)]
    return {"colour": PALETTE[number % len(PALETTE)], "dash": DASHES[dash]}
