"""The explorer's page: its data as one script, its images, and the page itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdgmae.consistency.score_tables import COMPARED
from cdgmae.report.pages.explorer.bag_selection import RULES, SAMPLE_SIZE, SourceChoice, choose_source
from cdgmae.report.pages.explorer.explorer_bags import IMAGES, show_bags
from cdgmae.report.rendering import write_page
from cdgmae.settings.report import ReportSettings
from cdgmae.storage.files.atomic import write_text

EXPLORER_PAGE = "consistency/index.html"
DATA_NAME = "data.js"
SCRIPTS = ("explorer_filter.js", "explorer_charts.js", "explorer_scatter.js", "explorer_table.js", "explorer_bag.js")
"""The page's own scripts in the order in which they are loaded."""

EXPLORER_ASSETS = ("explorer.css", *SCRIPTS)
"""What the page needs in the report's folder of assets, besides what all pages share."""

BUDGET = 8_000_000
"""Bytes of images and nearest patches together."""


def write_explorer(
    settings: ReportSettings,
    results: Path,
    output: Path,
    summaries: Sequence[dict[str, Any]],
    tables: Mapping[str, Sequence[Path]],
) -> dict[str, Any]:
    """Write `consistency/index.html` with `data.js` and `images/` beside it.

    Args:
        settings: Title, number of bags, size of the images.
        results: Folder with the results of the stages.
        output: Folder of the report, which holds the shared scripts.
        summaries: Rows of the consistency summary; none if the stage has not been run.
        tables: Source -> its score tables.

    Returns:
        `explorer_bags`: bags in the table, `explorer_images`: those with images, `explorer_sample`: bags in the distributions.
    """
    folder = (output / EXPLORER_PAGE).parent
    (output / EXPLORER_PAGE).unlink(missing_ok=True)
    shutil.rmtree(folder / IMAGES, ignore_errors=True)
    quota = max(1, settings.consistency_bags // (len(RULES) * max(1, len(summaries))))
    sample_size = SAMPLE_SIZE // max(1, len(summaries))
    choices = [shown for row in summaries if (shown := choose_source(tables[row["source"]], row, quota, sample_size)) is not None]
    turns = max((len(choice.bags) for choice in choices), default=0)
    chosen = [choice.bags[place] for place in range(turns) for choice in choices if place < len(choice.bags)]
    bags = show_bags(chosen, results, folder, settings.thumbnail_size, BUDGET)
    counts = {
        "explorer_bags": len(bags), "explorer_images": sum(bag["strip"] is not None for bag in bags),
        "explorer_sample": sum(len(choice.sample["nps"]) for choice in choices),
    }  # fmt: skip
    data = {"rules": RULES, "sources": [_source(choice) for choice in choices], "bags": bags, "results": str(results)}
    write_text(folder / DATA_NAME, f"const explorerData = {json.dumps(data, separators=(',', ':'))};\n")
    write_page(
        output, EXPLORER_PAGE, "explorer.html.j2", settings=settings, choices=choices, scripts=SCRIPTS, quota=quota, counts=counts,
    )  # fmt: skip
    return counts


def _source(choice: SourceChoice) -> dict[str, Any]:
    """What the page's script reads of one source: its size, and key, class and scores of its sampled bags."""
    sample = {name: [round(value, 4) for value in choice.sample[name]] for name in COMPARED}
    sample |= {"key": choice.sample["key"], "class": choice.sample["class_name"]}
    return {"name": choice.source, "bags": choice.num_bags, "sample": sample}
