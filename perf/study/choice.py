"""What the study chooses by its own scores: which views are consistent, and the guidance scale whose pairs resemble frames of a clip.

`python -m perf.study.choice RESULTS OUTPUT` writes both as a file that is laid over the study's configuration.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml

from cdgmae import names
from cdgmae.config import Config, load_config
from cdgmae.consistency.consistency_summary import describe_sources
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.tables import read_table
from cdgmae.workflow import consistency

CONFIG = (Path(__file__).parents[2] / "workflow/experiments/small_study.yaml", Path(__file__).with_name("cpu_size.yaml"))
"""The study at the size of a CPU core."""

REFERENCE, GUIDED, PLAIN = "video", "guided", "s_ldm"
CANDIDATES = "guidance_"
"""Names of the sources that try a guidance scale begin so: all on the same images, which their generator has not seen."""


def candidates(config: Config) -> list[str]:
    """The sources among whose guidance scales one is chosen."""
    return [name for name in config.views.sources if name.startswith(CANDIDATES)]


def score_files(config: Config, results: Path = Path(names.RESULTS)) -> list[Path]:
    """The score tables that the guidance scale is chosen by."""
    tables = [table for source in (REFERENCE, *candidates(config)) for table in consistency.score_tables(config, source)]
    return [results / Path(table).relative_to(names.RESULTS) for table in tables]


def guidance_distances(config: Config, results: Path = Path(names.RESULTS)) -> dict[float, float]:
    """Guidance scale -> Euclidean distance of its pairs' mean (GS, LS, NPS) to those of frames of a clip (paper, section 3.2)."""
    rows = {row["source"]: row["distance"] for row in describe_sources(score_files(config, results))}
    return {config.views.sources[name].sampling.guidance_scale: rows[name] for name in candidates(config)}


def nearest_scale(config: Config, results: Path = Path(names.RESULTS)) -> float:
    """The guidance scale of the smallest distance."""
    distances = guidance_distances(config, results)
    return min(distances, key=distances.__getitem__)


def consistent_run(settings: PretrainRunSettings, tables: list[Path]) -> PretrainRunSettings:
    """A run that keeps the views above their median NPS, a limit that fits any scoring encoder, at the compute of one that keeps all.

    Bags without any such view are left out, so there are more epochs of fewer steps.

    Args:
        settings: The run with its epochs over all bags.
        tables: Scores of its views.
    """
    scores = [read_table(path, ["key", "nps"]).drop_null() for path in tables]
    values = np.concatenate([table.column("nps").to_numpy() for table in scores])
    limit = round(float(np.median(values)), 4)
    kept = sum(len(table.filter(pc.greater_equal(table["nps"], limit))["key"].unique()) for table in scores)
    epochs = round(settings.epochs * sum(len(table["key"].unique()) for table in scores) / kept)
    return settings.model_copy(update={"view_filter": f"nps >= {limit!r}", "epochs": epochs, "warmup_epochs": epochs / 20})


def chosen_values(config: Config, results: Path = Path(names.RESULTS)) -> dict[str, Any]:
    """What is laid over the configuration: the runs with a filter and, as soon as all of its scores are there, the guidance scale."""
    values: dict[str, Any] = {}
    for name, run in config.pretrain.runs.items():
        if run.view_filter is not None:
            chosen = consistent_run(
                run, [results / Path(path).relative_to(names.RESULTS) for path in consistency.score_tables(config, run.source)]
            )
            values.setdefault("pretrain", {"runs": {}})["runs"][name] = {
                "view_filter": chosen.view_filter,
                "epochs": chosen.epochs,
            }
    if all(path.is_file() for path in score_files(config, results)):
        values["views"] = {"sources": {GUIDED: {"sampling": {"guidance_scale": nearest_scale(config, results)}}}}
    return values


def write_choice(config: Config, results: Path, output: Path) -> None:
    """Write `chosen_values` where they are not written already: a file that stays has nothing made again."""
    text = yaml.safe_dump(chosen_values(config, results))
    if not output.is_file() or output.read_text(encoding="utf-8") != text:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_choice(load_config(*CONFIG), Path(sys.argv[1]), Path(sys.argv[2]))
    print(Path(sys.argv[2]).read_text(encoding="utf-8"), end="")
