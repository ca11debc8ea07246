"""What the stages left in `results`, read once for the page; what to show is found from the files themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae.consistency.consistency_summary import SUMMARY_SCHEMA
from cdgmae.report.propagation_scores import EncoderScores, read_scores
from cdgmae.report.shard_counts import ImageFacts, read_all_images
from cdgmae.report.training_curves import TrainingFacts, read_generators, read_runs
from cdgmae.storage.tables import read_table, table_facts


@dataclass(frozen=True, slots=True)
class StageFiles:
    """Everything the page is made of, as read from `results`; lists are empty where a stage has not been run."""

    datasets: list[ImageFacts]
    sources: list[ImageFacts]
    generators: list[TrainingFacts]
    consistency: list[dict[str, Any]]
    runs: list[TrainingFacts]
    encoders: list[EncoderScores]
    versions: dict[str, str]

    @property
    def missing(self) -> dict[str, str]:
        """Stage that left nothing -> what was looked for."""
        found = {
            "shards": (self.datasets, "shards/*/*.tar"), "views": (self.sources, "views/*/*.tar"),
            "consistency": (self.consistency, "consistency/summary.parquet"), "pretrain": (self.runs, "pretrain/*/seed*/metrics.parquet"),
            "propagation": (self.encoders, "propagation/summary.parquet"),
        }  # fmt: skip
        return {stage: pattern for stage, (facts, pattern) in found.items() if not facts}


def read_results(results: Path) -> StageFiles:
    """Read what the stages left in `results`; what to show is found from the files, in the order of their names.

    Raises:
        ValueError: if a file is there but cannot be read.
    """
    summary = results / "consistency" / "summary.parquet"
    consistency = read_table(summary, SUMMARY_SCHEMA.names).to_pylist() if summary.is_file() else []
    datasets, sources = read_all_images(results / "shards"), read_all_images(results / "views")
    runs, encoders = read_runs(results / "pretrain"), read_scores(results / "propagation")
    versions = {f"shards of {facts.name}": facts.version for facts in datasets}
    versions |= {f"views of {facts.name}": facts.version for facts in sources}
    versions |= {"consistency summary": str(table_facts(summary).get("version", ""))} if consistency else {}
    versions |= {f"run {run.label}": str(run.config.get("version", "")) for run in runs}
    propagation = results / "propagation" / "summary.parquet"
    versions |= {"propagation summary": str(table_facts(propagation).get("version", ""))} if encoders else {}
    return StageFiles(datasets, sources, read_generators(results / "generators"), consistency, runs, encoders, versions)
