"""Scores of single sequences, which the summary averages away."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae.propagation.benchmarks.benchmark import Benchmark
from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of, set_label
from cdgmae.report.propagation_scores import EncoderScores, evaluation_sets
from cdgmae.storage.tables import read_table


@dataclass(frozen=True, slots=True)
class SetScores:
    """One evaluation set.

    Attributes:
        name: Its name in the configuration.
        benchmark: The object of its kind.
        frames: Sequence -> number of its frames, in order of names.
        scores: Encoder -> sequence -> headline measure, rounded to 0.1, or None where nothing could be counted; only encoders with a table.
        missing: Encoders without a table of this set.
    """

    name: str
    benchmark: Benchmark[Any, Any]
    frames: dict[str, int]
    scores: dict[str, dict[str, float | None]]
    missing: list[str]

    @property
    def label(self) -> str:
        """Heading."""
        return set_label(self.name, self.benchmark.kind)

    def worst_first(self, encoder: str) -> list[str]:
        """The encoder's sequences from the lowest score up; equal ones by name, those without a score last."""
        scores = self.scores[encoder]
        return sorted(scores, key=lambda name: (math.inf if (score := scores[name]) is None else score, name))


def read_sequences(folder: Path, encoders: Sequence[EncoderScores]) -> list[SetScores]:
    """Scores of all sequences of the sets that the encoders were judged on.

    Args:
        folder: Folder with ENCODER/SET.parquet.
        encoders: In the order of the page.
    """
    names = [encoder.name for encoder in encoders]
    return [_read_set(folder, name, kind, names) for name, kind in evaluation_sets(encoders).items()]


def _read_set(folder: Path, name: str, kind: str, encoders: Sequence[str]) -> SetScores:
    benchmark, frames = benchmark_of(kind), dict[str, int]()
    scores: dict[str, dict[str, float | None]] = {}
    for encoder in encoders:
        path = folder / encoder / f"{name}.parquet"
        if path.is_file():
            rows = read_table(path, ["sequence", "item", "frames", *benchmark.columns]).to_pylist()
            frames.update((row["sequence"], row["frames"]) for row in rows)
            scores[encoder] = _score_sequences(benchmark, rows)
    missing = [encoder for encoder in encoders if encoder not in scores]
    return SetScores(name, benchmark, dict(sorted(frames.items())), scores, missing)


def _score_sequences(benchmark: Benchmark[Any, Any], rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Sequence -> its headline measure, counted as that of the whole set is."""
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["sequence"]].append(row)
    return {name: _rounded(benchmark.scores(group)[benchmark.headline.name]) for name, group in sorted(grouped.items())}


def _rounded(score: float) -> float | None:
    return None if math.isnan(score) else round(score, 1)
