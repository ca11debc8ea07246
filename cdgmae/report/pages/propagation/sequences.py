"""Scores of single sequences, which the summary averages away."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae.names import CLIP_SETS
from cdgmae.propagation.measures.scores import table_scores
from cdgmae.storage.tables import read_table

JUDGED = {"davis": "J&F", "vip": "mIoU", "jhmdb": "PCK@0.1"}
"""Clip set -> the score that its sequences are ordered by."""

MEANINGS = {
    "davis": "J&F: the mean of region overlap J and contour accuracy F over the objects of the sequence",
    "vip": "mIoU: the mean over the classes that occur in the sequence of their overlap in all its frames together",
    "jhmdb": "PCK@0.1: the mean over joints of the share of frames in which the joint is found, within a tenth of the person's size",
}

COLUMNS = {
    "davis": ["J_mean", "F_mean"], "vip": ["intersection", "union"],
    "jhmdb": ["visible", "hits_0.1", "hits_0.2", "hits_0.3", "hits_0.4", "hits_0.5"],
}  # fmt: skip
"""Columns of the score tables that the scores of each clip set come from."""


@dataclass(frozen=True, slots=True)
class ClipSetScores:
    """One clip set.

    Attributes:
        clip_set: davis, vip or jhmdb.
        frames: Sequence -> number of its frames, in order of names.
        scores: Encoder -> sequence -> percent, rounded to 0.1, or None where nothing could be counted; only encoders with a table.
        missing: Encoders without a table of this clip set.
    """

    clip_set: str
    frames: dict[str, int]
    scores: dict[str, dict[str, float | None]]
    missing: list[str]

    def worst_first(self, encoder: str) -> list[str]:
        """The encoder's sequences from the lowest score up; equal ones by name, those without a score last."""
        scores = self.scores[encoder]
        return sorted(scores, key=lambda name: (math.inf if (score := scores[name]) is None else score, name))


def read_sequences(folder: Path, encoders: Sequence[str]) -> list[ClipSetScores]:
    """Scores of all sequences of all clip sets, also of those that no encoder was judged on.

    Args:
        folder: Folder with ENCODER/CLIP_SET.parquet.
        encoders: Names in the order of the page.
    """
    return [_read_clip_set(folder, clip_set, encoders) for clip_set in CLIP_SETS]


def _read_clip_set(folder: Path, clip_set: str, encoders: Sequence[str]) -> ClipSetScores:
    frames: dict[str, int] = {}
    scores: dict[str, dict[str, float | None]] = {}
    for encoder in encoders:
        path = folder / encoder / f"{clip_set}.parquet"
        if path.is_file():
            columns = ["clip_set", "sequence", "item", "frames", *COLUMNS[clip_set]]
            rows = read_table(path, columns).to_pylist()
            frames.update((row["sequence"], row["frames"]) for row in rows)
            scores[encoder] = _score_sequences(clip_set, rows)
    missing = [encoder for encoder in encoders if encoder not in scores]
    return ClipSetScores(clip_set, dict(sorted(frames.items())), scores, missing)


def _score_sequences(clip_set: str, rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Sequence -> its judged score, counted as the score of the whole clip set is."""
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["sequence"]].append(row)
    return {name: _rounded(table_scores(group)[JUDGED[clip_set]]) for name, group in sorted(grouped.items())}


def _rounded(score: float) -> float | None:
    return None if math.isnan(score) else round(score, 1)
