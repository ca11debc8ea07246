"""Writes the page that compares encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cdgmae.propagation.measures.intervals import NUM_RESAMPLES
from cdgmae.report.pages.encoders.encoder_looks import draw_looks
from cdgmae.report.pages.encoders.set_rankings import SetRanking, read_costs_of_encoders
from cdgmae.report.propagation_scores import EncoderScores
from cdgmae.report.rendering import write_page
from cdgmae.settings.report import ReportJobSettings

ENCODERS_PAGE = "encoders/index.html"


def write_encoders_page(
    settings: ReportJobSettings, results: Path, output: Path, encoders: Sequence[EncoderScores], rankings: Sequence[SetRanking]
) -> None:
    """Write `encoders/index.html`.

    Args:
        settings: Title, and what the configuration names.
        results: Folder with the results of the stages.
        output: Folder of the report.
        encoders: Rows of the summary; none if the stage has not been run.
        rankings: Of `rank_encoders`.
    """
    dataset = next(iter(settings.contents.datasets), "")
    chosen = {
        encoder.name: settings.contents.looks[encoder.name] for encoder in encoders if encoder.name in settings.contents.looks
    }
    looks = draw_looks(chosen, results / "shards" / dataset / "00000.tar", (output / ENCODERS_PAGE).parent)
    write_page(
        output, ENCODERS_PAGE, "encoders_page.html.j2", settings=settings, encoders=encoders, rankings=rankings,
        costs=read_costs_of_encoders(results / "propagation", encoders), looks=looks, dataset=dataset, num_resamples=NUM_RESAMPLES,
    )  # fmt: skip
