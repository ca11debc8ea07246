"""Propagation scores for the page, and what they say about the trained encoders, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae.names import CLIP_SETS
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.storage.tables import TableError, read_table, table_facts

SUMMARY_NAME = "summary.parquet"

SCORES = {
    "J&F": "DAVIS J&F", "J": "DAVIS J", "F": "DAVIS F", "mIoU": "VIP mIoU", "PCK@0.1": "JHMDB PCK@0.1", "PCK@0.2": "JHMDB PCK@0.2",
}  # fmt: skip
"""Column of the summary -> its name in the page. All are percentages, higher is better."""

JUDGED = ("J&F", "mIoU", "PCK@0.1")
"""The score of each clip set by which encoders are judged."""

FEW_SEQUENCES = 20
"""Below this many sequences the page warns that small differences may be chance."""


@dataclass(frozen=True, slots=True)
class EncoderScores:
    """One row of the propagation summary.

    Attributes:
        name: Encoder name in the config.
        kind: `trained`, `random` (random weights) or `pixels` (no network).
        scores: Column -> percentage, None where the clip set was not run.
        sequences: Clip set -> number of sequences behind the score, where the table is there and says so.
        text: What the encoder is: a file, a timm name, or random weights and their architecture; empty if not recorded.
        protocols: Clip set -> the protocol's settings, as far as recorded.
    """

    name: str
    kind: str
    scores: dict[str, float | None]
    sequences: dict[str, int]
    text: str
    protocols: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A trained encoder against random weights on one score; `floor` is the best of all encoders with random weights."""

    encoder: str
    column: str
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
        return f"{SCORES[self.column]} {self.value:.1f}, {self.place} random weights ({self.floor:.1f}){by}"


def read_scores(folder: Path) -> list[EncoderScores]:
    """All encoders of `folder`/summary.parquet in its order; empty if there is no summary.

    Raises:
        TableError: if the summary lacks the column `encoder` or cannot be read.
    """
    path = folder / SUMMARY_NAME
    if not path.is_file():
        return []
    table = read_table(path)
    if "encoder" not in table.column_names:
        raise TableError(f"{path} has no column 'encoder'; delete it and rerun the propagation stage")
    return [_read_encoder(folder, row) for row in table.to_pylist()]


def compare_with_random(encoders: Sequence[EncoderScores]) -> list[Comparison]:
    """Every trained encoder against random weights on the judged scores, as far as both have one."""
    comparisons = []
    for column in JUDGED:
        floors = [value for encoder in encoders if encoder.kind == "random" and (value := encoder.scores[column]) is not None]
        for encoder in encoders:
            value = encoder.scores[column]
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
    best = [f"{SCORES[column]} {name} ({value:.1f})" for column in JUDGED for name, value in _best(encoders, column)]
    sentences.append(f"Highest of all encoders: {', '.join(best)}.")
    return sentences


def describe_sample(encoders: Sequence[EncoderScores]) -> str:
    """How many sequences the scores rest on, or nothing if it is not recorded."""
    counts = {clip_set: count for encoder in encoders for clip_set, count in encoder.sequences.items()}
    if not counts:
        return ""
    shown = ", ".join(f"{counts[clip_set]} of {clip_set.upper()}" for clip_set in CLIP_SETS if clip_set in counts)
    few = " With so few, a difference of a point or two may be chance." if min(counts.values()) < FEW_SEQUENCES else ""
    return f"Sequences behind the scores: {shown}.{few}"


def _verdict(comparisons: Sequence[Comparison]) -> str:
    names = list(dict.fromkeys(item.encoder for item in comparisons))
    short = [item for item in comparisons if not item.above]
    judged = _listing([SCORES[column] for column in JUDGED if any(item.column == column for item in comparisons)])
    if not short:
        return f"Every trained encoder ({_listing(names)}) is above random weights on {judged}."
    gaps = ["level" if item.place == "level with" else f"{item.difference:+.1f}" for item in short]
    where = _listing([f"{item.encoder} on {SCORES[item.column]} ({gap})" for item, gap in zip(short, gaps, strict=True)])
    return f"Not every trained encoder is above random weights. Those that are not: {where}."


def _best(encoders: Sequence[EncoderScores], column: str) -> list[tuple[str, float]]:
    """Name and score of the encoder that is best on `column`, the first of equals; empty if none was run."""
    known = [(encoder.name, value) for encoder in encoders if (value := encoder.scores[column]) is not None]
    return [max(known, key=lambda item: item[1])] if known else []


def _listing(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _read_encoder(folder: Path, row: dict[str, Any]) -> EncoderScores:
    name = str(row["encoder"])
    tables = {clip_set: folder / name / f"{clip_set}.parquet" for clip_set in CLIP_SETS}
    facts = {clip_set: table_facts(path) for clip_set, path in tables.items() if path.is_file()}
    recorded = [values["encoder_settings"] for values in facts.values() if "encoder_settings" in values]
    judged = EncoderSettings.from_plain(recorded[0]) if recorded else None
    sequences = {clip_set: count for clip_set in facts if (count := _count_sequences(tables[clip_set])) is not None}
    protocols = {clip_set: dict(values["protocol"]) for clip_set, values in facts.items() if "protocol" in values}
    scores = {column: row.get(column) for column in SCORES}
    return EncoderScores(name, judged.kind if judged else "trained", scores, sequences, judged.text if judged else "", protocols)


def _count_sequences(path: Path) -> int | None:
    try:
        return len(read_table(path, ["sequence"])["sequence"].unique())
    except TableError:
        return None
