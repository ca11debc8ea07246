"""Propagation scores for the page, and what they say about the trained encoders, in plain sentences."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of, column_of, set_label
from cdgmae.propagation.measures.encoder_summary import SUMMARY_SCHEMA
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.storage.tables import read_table

SUMMARY_NAME = "summary.parquet"

FEW_SEQUENCES = 20
"""Below this many sequences the page warns that small differences may be chance."""


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """One measure on one evaluation set.

    Attributes:
        set: The evaluation set.
        name: Column of the wide summary, e.g. `J&F`.
        label: Its name in the page, e.g. `DAVIS J&F`.
        headline: Whether encoders are judged by it.
        shown: Whether it stands in tables.
    """

    set: str
    name: str
    label: str
    headline: bool
    shown: bool


@dataclass(frozen=True, slots=True)
class EncoderScores:
    """One encoder of the propagation summary.

    Attributes:
        name: Encoder name in the config.
        kind: `trained`, `random` (random weights) or `pixels` (no network).
        scores: Column -> value, higher is better; None where nothing could be counted.
        sets: Evaluation set -> its kind, in the order of the summary.
        sequences: Evaluation set -> number of sequences behind the score.
        text: What the encoder is: a file, a timm name, or random weights and their architecture.
        protocols: Evaluation set -> the protocol's settings.
    """

    name: str
    kind: str
    scores: dict[ScoreColumn, float | None]
    sets: dict[str, str]
    sequences: dict[str, int]
    text: str
    protocols: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A trained encoder against random weights on one score; `floor` is the best of all encoders with random weights."""

    encoder: str
    column: ScoreColumn
    value: float
    floor: float

    @property
    def difference(self) -> float:
        """Percentage points above random weights."""
        return self.value - self.floor

    @property
    def above(self) -> bool:
        """Whether the encoder is better than random weights at the shown precision of 0.1."""
        return round(self.difference, 1) > 0

    @property
    def place(self) -> str:
        """`above`, `level with` or `below`."""
        return "above" if self.above else "below" if round(self.difference, 1) < 0 else "level with"

    @property
    def sentence_part(self) -> str:
        """E.g. `DAVIS J&F 40.1, above random weights (38.0) by 2.1`."""
        by = "" if self.place == "level with" else f" by {abs(self.difference):.1f}"
        return f"{self.column.label} {self.value:.1f}, {self.place} random weights ({self.floor:.1f}){by}"


def read_scores(folder: Path, sets: Container[str] | None = None) -> list[EncoderScores]:
    """All encoders of `folder`/summary.parquet in its order, on all evaluation sets or those named; empty if there is no summary.

    Raises:
        TableError: if the summary lacks a column or cannot be read.
    """
    path = folder / SUMMARY_NAME
    if not path.is_file():
        return []
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_table(path, SUMMARY_SCHEMA.names).to_pylist():
        if sets is None or row["set"] in sets:
            rows.setdefault(row["encoder"], []).append(row)
    return [_read_encoder(name, encoder_rows) for name, encoder_rows in rows.items()]


def score_columns(encoders: Sequence[EncoderScores]) -> list[ScoreColumn]:
    """The columns that tables show of these encoders, each once, set by set."""
    columns = dict.fromkeys(column for encoder in encoders for column in encoder.scores if column.shown)
    places = {name: place for place, name in enumerate(evaluation_sets(encoders))}
    return sorted(columns, key=lambda column: places[column.set])


def evaluation_sets(encoders: Sequence[EncoderScores]) -> dict[str, str]:
    """Name -> kind of every set that one of the encoders was judged on."""
    return {name: kind for encoder in encoders for name, kind in encoder.sets.items()}


def compare_with_random(encoders: Sequence[EncoderScores]) -> list[Comparison]:
    """Every trained encoder against random weights on the headline measures, as far as both have one."""
    comparisons = []
    for column in _headlines(encoders):
        floors = [value for encoder in encoders if encoder.kind == "random" and (value := encoder.scores.get(column)) is not None]
        for encoder in encoders:
            value = encoder.scores.get(column)
            if encoder.kind == "trained" and value is not None and floors:
                comparisons.append(Comparison(encoder.name, column, value, max(floors)))
    return comparisons


def describe_findings(encoders: Sequence[EncoderScores]) -> list[str]:
    """What the scores say, openly: verdict first, then one sentence per trained encoder, then the best of each score."""
    comparisons = compare_with_random(encoders)
    if not comparisons:
        return [
            "Nothing can be said about the trained encoders: there are no scores of a trained encoder and of random weights to compare."
        ]
    sentences = [_verdict(comparisons)]
    for name in dict.fromkeys(item.encoder for item in comparisons):
        parts = [item.sentence_part for item in comparisons if item.encoder == name]
        sentences.append(f"Encoder {name}: {'; '.join(parts)}.")
    best = [f"{column.label} {name} ({value:.1f})" for column in _headlines(encoders) for name, value in _best(encoders, column)]
    sentences.append(f"Highest of all encoders: {', '.join(best)}.")
    return sentences


def describe_sample(encoders: Sequence[EncoderScores]) -> str:
    """How many sequences the scores rest on, or nothing if it is not recorded."""
    counts = {name: count for encoder in encoders for name, count in encoder.sequences.items()}
    if not counts:
        return ""
    kinds = evaluation_sets(encoders)
    shown = ", ".join(f"{count} of {set_label(name, kinds[name])}" for name, count in counts.items())
    few = " With so few, a difference of a point or two may be chance." if min(counts.values()) < FEW_SEQUENCES else ""
    return f"Sequences behind the scores: {shown}.{few}"


def _headlines(encoders: Sequence[EncoderScores]) -> list[ScoreColumn]:
    return [column for column in score_columns(encoders) if column.headline]


def _verdict(comparisons: Sequence[Comparison]) -> str:
    names = list(dict.fromkeys(item.encoder for item in comparisons))
    short = [item for item in comparisons if not item.above]
    judged = _listing(list(dict.fromkeys(item.column.label for item in comparisons)))
    if not short:
        return f"Every trained encoder ({_listing(names)}) is above random weights on {judged}."
    gaps = ["level" if item.place == "level with" else f"{item.difference:+.1f}" for item in short]
    where = _listing([f"{item.encoder} on {item.column.label} ({gap})" for item, gap in zip(short, gaps, strict=True)])
    return f"Not every trained encoder is above random weights. Those that are not: {where}."


def _best(encoders: Sequence[EncoderScores], column: ScoreColumn) -> list[tuple[str, float]]:
    """Name and score of the encoder that is best on `column`, the first of equals; empty if none was run."""
    known = [(encoder.name, value) for encoder in encoders if (value := encoder.scores.get(column)) is not None]
    return [max(known, key=lambda item: item[1])] if known else []


def _listing(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _read_encoder(name: str, rows: Sequence[Mapping[str, Any]]) -> EncoderScores:
    """One encoder from its rows of the summary."""
    judged = EncoderSettings.from_plain(json.loads(rows[0]["encoder_settings"]))
    return EncoderScores(
        name,
        judged.kind,
        {_column(row): row["value"] for row in rows},
        {row["set"]: row["kind"] for row in rows},
        {row["set"]: row["sequences"] for row in rows},
        judged.text,
        {row["set"]: json.loads(row["protocol"]) for row in rows},
    )


def _column(row: Mapping[str, Any]) -> ScoreColumn:
    benchmark, name, kind = benchmark_of(row["kind"]), row["set"], row["kind"]
    measure = next(measure for measure in benchmark.measures if measure.name == row["measure"])
    label = f"{set_label(name, kind)} {measure.name}"
    return ScoreColumn(name, column_of(name, kind, measure.name), label, measure is benchmark.headline, measure.shown)
