"""Writes the page on propagation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdgmae.paper import PAPER_TABLES
from cdgmae.report.pages.encoders.encoders_page import write_encoders_page
from cdgmae.report.pages.encoders.set_rankings import rank_encoders
from cdgmae.report.pages.propagation.sequences import SetScores, read_sequences
from cdgmae.report.pages.propagation.strip_images import ShownStrips, show_strips
from cdgmae.report.propagation_scores import EncoderScores, score_columns
from cdgmae.report.rendering import write_page
from cdgmae.report.svg_figures import PALETTE
from cdgmae.settings.report import ReportJobSettings
from cdgmae.storage.files.atomic import write_text

PROPAGATION_PAGE = "propagation/index.html"
DATA_NAME = "data.js"
PROPAGATION_ASSETS = ("propagation.css", "propagation_bars.js", "propagation_strips.js")
"""What the page needs in the report's folder of assets, besides what all pages share."""


def write_propagation_page(
    settings: ReportJobSettings, results: Path, output: Path, encoders: Sequence[EncoderScores]
) -> dict[str, Any]:
    """Write `propagation/index.html` with `data.js` and `strips/` beside it, and the page that compares encoders.

    Args:
        settings: Title, number of strips, and what the configuration names.
        results: Folder with the results of the stages.
        output: Folder of the report, which holds the shared scripts.
        encoders: Rows of the summary; none if the stage has not been run.

    Returns:
        `strips`: number of sequences shown as strips.
    """
    folder, page_folder = results / "propagation", (output / PROPAGATION_PAGE).parent
    sets = read_sequences(folder, encoders)
    strips = [show_strips(folder, scores, settings.num_strips, page_folder) for scores in sets]
    parts = [_part(scores, shown) for scores, shown in zip(sets, strips, strict=True) if scores.scores]
    colours = {encoder.name: PALETTE[number % len(PALETTE)] for number, encoder in enumerate(encoders)}
    data = json.dumps({"colours": colours, "sets": parts}, separators=(",", ":"))
    write_text(page_folder / DATA_NAME, f"const propagationData = {data};\n")
    rankings = rank_encoders(folder, encoders)
    write_encoders_page(settings, results, output, encoders, rankings)
    write_page(
        output, PROPAGATION_PAGE, "propagation_page.html.j2", settings=settings, encoders=encoders, scores=score_columns(encoders),
        paper=PAPER_TABLES, sections=list(zip(sets, strips, strict=True)), assets=PROPAGATION_ASSETS,
        rankings={ranking.name: ranking for ranking in rankings},
    )  # fmt: skip
    return {"strips": sum(len(shown.frames) for shown in strips)}


def _part(scores: SetScores, shown: ShownStrips) -> dict[str, Any]:
    """What the page's scripts read of one evaluation set: scores in the order of its sequences, and its strips."""
    return {
        "name": scores.name, "score": scores.benchmark.headline.name, "sequences": list(scores.frames), "numFrames": list(scores.frames.values()),
        "scores": {encoder: [values.get(name) for name in scores.frames] for encoder, values in scores.scores.items()},
        "strips": {"frames": shown.frames, "files": shown.files},
    }  # fmt: skip
