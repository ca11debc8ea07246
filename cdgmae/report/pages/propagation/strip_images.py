"""Which sequences are shown as strips of painted frames, and their copies beside the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cdgmae.names import how_to_remake
from cdgmae.report.pages.propagation.sequences import SetScores
from cdgmae.storage.files.atomic import write_bytes

STRIPS, INDEX_NAME = "strips", "strips.json"
BUDGET = 2_500_000
"""Bytes of the strips of one evaluation set."""


@dataclass(slots=True)
class ShownStrips:
    """Strips of one evaluation set.

    Attributes:
        frames: Sequence -> the frames that its strip shows, counted from 0; in the order in which sequences were chosen.
        files: Encoder -> sequence -> file relative to the page.
        missing: Encoders with scores but without strips.
    """

    frames: dict[str, list[int]] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def worst_in_turn(scores: SetScores) -> Iterator[str]:
    """Every sequence once: the worst of each encoder in turn, then the second worst of each, and so on."""
    orders = [scores.worst_first(encoder) for encoder in scores.scores]
    places = range(max(map(len, orders), default=0))
    yield from dict.fromkeys(order[place] for place in places for order in orders if place < len(order))


def show_strips(folder: Path, scores: SetScores, num_strips: int, output: Path) -> ShownStrips:
    """Copy the strips of the first sequences of `worst_in_turn`, of all encoders, below `output`/strips/SET, which is replaced.

    Args:
        folder: Folder with ENCODER/strips/SET.
        scores: Scores of the set.
        num_strips: At most this many sequences, and as many as fit into `BUDGET`; the first in any case.
        output: Folder of the page.
    """
    shutil.rmtree(output / STRIPS / scores.name, ignore_errors=True)
    sources = {encoder: folder / encoder / STRIPS / scores.name for encoder in scores.scores}
    indices = {encoder: _read_index(source / INDEX_NAME) for encoder, source in sources.items()}
    shown = ShownStrips(missing=[encoder for encoder, index in indices.items() if not index])
    size = 0
    for sequence in worst_in_turn(scores):
        strips = {encoder: source / f"{sequence}.jpg" for encoder, source in sources.items() if sequence in indices[encoder]}
        size += sum(path.stat().st_size for path in strips.values())
        if len(shown.frames) == num_strips or (shown.frames and size > BUDGET):
            break
        if strips:
            number = len(shown.frames)
            shown.frames[sequence] = indices[next(iter(strips))][sequence]
            for place, (encoder, path) in enumerate(strips.items()):
                file = f"{STRIPS}/{scores.name}/{number:03d}-{place}.jpg"
                write_bytes(output / file, path.read_bytes())
                shown.files.setdefault(encoder, {})[sequence] = file
    return shown


def _read_index(path: Path) -> dict[str, list[int]]:
    """Sequence -> frames of its strip; empty if there are no strips."""
    if not path.is_file():
        return {}
    try:
        index: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {how_to_remake(path)}") from None
    return index
