"""What the stages left of what the configuration names, read once for the page; nothing else in `results` is looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdgmae.consistency.consistency_summary import SUMMARY_SCHEMA
from cdgmae.names import shard_names
from cdgmae.report.propagation_scores import EncoderScores, read_scores
from cdgmae.report.shard_counts import ImageCounts, read_images
from cdgmae.report.training_curves import TrainingLog, read_generators, read_runs
from cdgmae.settings.report import ReportContents
from cdgmae.storage.tables import read_table, table_metadata


@dataclass(frozen=True, slots=True)
class StageFiles:
    """Everything the page is made of; lists are empty where a stage has not been run.

    Attributes:
        not_run: Stage -> what the configuration names of it and `results` does not have.
        versions: What was read -> version of the package that wrote it.
    """

    datasets: list[ImageCounts]
    sources: list[ImageCounts]
    generators: list[TrainingLog]
    consistency: list[dict[str, Any]]
    runs: list[TrainingLog]
    encoders: list[EncoderScores]
    not_run: dict[str, list[str]]
    versions: dict[str, str]

    @property
    def missing(self) -> list[str]:
        """Stages that left nothing."""
        parts = {
            "shards": self.datasets, "views": self.sources, "consistency": self.consistency, "pretrain": self.runs,
            "propagation": self.encoders,
        }  # fmt: skip
        return [stage for stage, part in parts.items() if not part]

    def absence(self, stage: str) -> str:
        """Why there is nothing of a stage, as a sentence."""
        return f"Stage {stage} has not been run." if self.not_run[stage] else f"The configuration names nothing of stage {stage}."


def read_results(contents: ReportContents, results: Path) -> StageFiles:
    """Read what the stages left in `results`.

    Raises:
        ValueError: if a file is there but cannot be read.
    """
    summary = results / "consistency" / "summary.parquet"
    rows = read_table(summary, SUMMARY_SCHEMA.names).to_pylist() if summary.is_file() else []
    consistency = [row for row in rows if row["source"] in contents.scored]
    datasets, sources = (
        _read_all_images(results / folder, group) for folder, group in (("shards", contents.datasets), ("views", contents.views))
    )
    runs, generators = (
        read_runs(results / "pretrain", contents.runs),
        read_generators(results / "generators", contents.generators),
    )
    encoders = [encoder for encoder in read_scores(results / "propagation", contents.sets) if encoder.name in contents.encoders]
    not_run = {
        "shards": _lacking(contents.datasets, (part.name for part in datasets)),
        "views": _lacking(contents.views, (part.name for part in sources))
        + _lacking(contents.generators, (part.name for part in generators)),
        "consistency": _lacking(contents.scored, (row["source"] for row in consistency)),
        "pretrain": _lacking(
            [f"{run}, seed {seed}" for run, seeds in contents.runs.items() for seed in seeds], (run.label for run in runs)
        ),
        "propagation": _lacking(contents.encoders, (encoder.name for encoder in encoders))
        + [f"{encoder.name} on {name}" for encoder in encoders for name in _lacking(contents.sets, encoder.sets)],
    }
    versions = {f"shards of {part.name}": part.version for part in datasets}
    versions |= {f"views of {part.name}": part.version for part in sources}
    versions |= {"consistency summary": str(table_metadata(summary).get("version", ""))} if consistency else {}
    versions |= {f"run {run.label}": str(run.config.get("version", "")) for run in runs}
    propagation = results / "propagation" / "summary.parquet"
    versions |= {"propagation summary": str(table_metadata(propagation).get("version", ""))} if encoders else {}
    return StageFiles(datasets, sources, generators, consistency, runs, encoders, not_run, versions)


def score_tables(results: Path, source: str, num_shards: int) -> list[Path]:
    """The score tables of a source that are there, by shard."""
    tables = [results / "consistency" / source / f"{shard}.parquet" for shard in shard_names(num_shards)]
    return [path for path in tables if path.is_file()]


def _read_all_images(folder: Path, groups: dict[str, int]) -> list[ImageCounts]:
    """Counts of every data set or source, by name, of which a shard is there; `groups` holds their numbers of shards."""
    tars = {name: [folder / name / f"{shard}.tar" for shard in shard_names(count)] for name, count in sorted(groups.items())}
    return [read_images(name, paths) for name, paths in tars.items() if any(path.is_file() for path in paths)]


def _on_sets(encoder: EncoderScores, contents: ReportContents) -> EncoderScores:
    """The encoder with the evaluation sets alone that the configuration names."""
    named = contents.sets
    return replace(
        encoder,
        scores={column: value for column, value in encoder.scores.items() if column.set in named},
        sets={name: kind for name, kind in encoder.sets.items() if name in named},
        sequences={name: count for name, count in encoder.sequences.items() if name in named},
        protocols={name: protocol for name, protocol in encoder.protocols.items() if name in named},
    )


def _lacking(wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    known = set(there)
    return [name for name in wanted if name not in known]
