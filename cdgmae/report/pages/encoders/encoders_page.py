"""Writes the page that compares encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cdgmae.propagation.measures.intervals import NUM_RESAMPLES
from cdgmae.report.pages.encoders.set_rankings import SetRanking, read_costs_of_encoders
from cdgmae.report.propagation_scores import EncoderScores
from cdgmae.report.rendering import write_page
from cdgmae.settings.report import ReportSettings

ENCODERS_PAGE = "encoders/index.html"


def write_encoders_page(
    settings: ReportSettings, folder: Path, output: Path, encoders: Sequence[EncoderScores], rankings: Sequence[SetRanking]
) -> None:
    """Write `encoders/index.html`.

    Args:
        settings: Title.
        folder: Folder with the tables of every encoder.
        output: Folder of the report.
        encoders: Rows of the summary; none if the stage has not been run.
        rankings: Of `rank_encoders`.
    """
    write_page(
        output, ENCODERS_PAGE, "encoders_page.html.j2", settings=settings, encoders=encoders, rankings=rankings,
        costs=read_costs_of_encoders(folder, encoders), num_resamples=NUM_RESAMPLES,
    )  # fmt: skip
