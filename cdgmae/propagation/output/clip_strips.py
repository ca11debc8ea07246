"""Strips: a few frames of a clip side by side under their predicted labels, small enough to keep for every clip.

The report shows them. Which clips it shows is known only when all are scored, so every clip gets one, of about 45 KB.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cdgmae.propagation.benchmarks.benchmark import EvaluationSequence, Predictions
from cdgmae.propagation.engine.clip_results import ClipResults
from cdgmae.storage.files.atomic import atomic_folder, remove_leftovers
from cdgmae.storage.media.images import encode_jpeg

NUM_FRAMES = 5
LONGER_SIDE, GAP = 240, 4
PAINTED_SIDE = 400
"""Frames are painted at this size and then reduced, so that outlines stay fine."""

QUALITY = 75
INDEX_NAME = "strips.json"


def strip_frames(num_frames: int) -> list[int]:
    """The frames of a strip, counted from 0: the first, the last, and those between at equal distances; all frames of a short clip."""
    count = min(NUM_FRAMES, num_frames)
    return [round(place * (num_frames - 1) / max(1, count - 1)) for place in range(count)]


def draw_strip(predictions: Predictions, num_images: int) -> bytes:
    """The strip of a finished sequence as JPEG, e.g. the given labels of frame 0, then predictions, errors outlined.

    Args:
        predictions: Of the sequence; hold those of the strip's images.
        num_images: Images of the sequence that can be painted.
    """
    images = [predictions.image(index, PAINTED_SIDE) for index in strip_frames(num_images)]
    for image in images:
        image.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
    width, height = images[0].size
    strip = Image.new("RGB", (len(images) * (width + GAP) - GAP, height), "white")
    for place, image in enumerate(images):
        strip.paste(image, (place * (width + GAP), 0))
    return encode_jpeg(strip, QUALITY)


def collect_strips(clips: Sequence[EvaluationSequence], results: ClipResults, output: Path) -> None:
    """Put the strips of all finished clips into one folder, which replaces an older one as a whole.

    Beside SEQUENCE.jpg, `strips.json` says which frames each strip shows: sequence -> frames, counted from 0.

    Args:
        clips: All sequences of the set.
        results: Where their strips were kept.
        output: The folder.
    """
    remove_leftovers(output)
    with atomic_folder(output) as folder:
        for clip in clips:
            (folder / f"{clip.name}.jpg").write_bytes(results.strip(clip))
        frames = {clip.name: strip_frames(clip.num_painted) for clip in clips}
        (folder / INDEX_NAME).write_text(json.dumps(frames, sort_keys=True) + "\n", encoding="utf-8")
