"""The 480x880 copy of DAVIS-2017 that the published numbers were measured on (spec label_propagation 3.6).

Frames and annotations alike were resized with Pillow's nearest neighbour rule, and the frames saved again as JPEG at Pillow's default
quality. Scores on this copy are measured at 480x880; on the native data they differ by several tenths of a point.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from cdgmae.propagation.layouts.davis_layout import LISTING, RESOLUTIONS, read_davis
from cdgmae.propagation.layouts.image_files import show_size
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.storage.files.atomic import explain_write_errors, write_bytes, write_text
from cdgmae.storage.media.images import ImageError, open_image, upright

PREPARED_SIZE = (480, 880)
JPEG_QUALITY = 75
RECORD_NAME = "prepared.json"


def prepare_davis(root: Path, output: Path, after_sequence: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Write the resized copy of DAVIS-2017 val, in DAVIS's layout; files that are already there and as old as their source are kept.

    Every file appears whole or not at all and the list of sequences last, so an interrupted copy cannot be mistaken for a finished one.

    Args:
        root: DAVIS at 480p; never written to.
        output: New folder, then usable as `--root`.
        after_sequence: Called with a sequence's name once all its files are there; may raise to stop.

    Returns:
        `sequences`, `frames`, `written` (files made by this call), `size` and `output`.

    Raises:
        LayoutError: if DAVIS is not complete.
        ValueError: if `output` lies inside `root`, holds something else, or cannot be written.
    """
    _refuse_inside(root, output)
    clips = read_davis(root)
    with explain_write_errors(output):
        _claim(output, root)
        written = 0
        with ProgressMeter("prepare davis", len(clips), unit="sequences") as meter:
            for clip in clips:
                written += _copy_clip(clip, output)
                meter.advance(note=clip.name)
                if after_sequence is not None:
                    after_sequence(clip.name)
        write_text(output / LISTING, "".join(f"{clip.name}\n" for clip in clips))
    frames = sum(len(clip.frames) for clip in clips)
    return {
        "sequences": len(clips), "frames": frames, "written": written, "size": show_size(PREPARED_SIZE), "output": str(output)
    }  # fmt: skip


def _refuse_inside(root: Path, output: Path) -> None:
    if output.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"--output {output} lies inside the data folder {root}, which is never written to; choose a folder elsewhere"
        )


def _claim(output: Path, root: Path) -> None:
    """Record what the copy is made of, or refuse a folder that holds anything else."""
    record = {
        "source": str(root.resolve()), "height": PREPARED_SIZE[0], "width": PREPARED_SIZE[1],
        "resampling": "nearest (Pillow), frames and annotations", "jpeg_quality": JPEG_QUALITY,
    }  # fmt: skip
    path = output / RECORD_NAME
    if path.is_file():
        noted = json.loads(path.read_text(encoding="utf-8"))
        if noted != record:
            raise ValueError(
                f"{output} holds a copy of {noted.get('source')}, not of {record['source']}; choose another --output"
            )
    elif any(not held.is_dir() for held in output.rglob("*")):  # a workflow makes the folders of its outputs beforehand
        raise ValueError(f"{output} is not empty and was not made by this command; choose another --output")
    else:
        write_text(path, json.dumps(record, indent=1) + "\n")


def check_prepared(root: Path) -> None:
    """Refuse a folder that is no finished copy.

    Raises:
        ValueError: if `root` was not made by `prepare_davis`, or not wholly.
    """
    if not (root / RECORD_NAME).is_file() or not (root / LISTING).is_file():
        raise ValueError(
            f"protocol published: {root} is not the 480x880 copy of DAVIS; make it with `cdgmae propagation prepare-davis --root "
            f"{shlex.quote(str(root))} --output COPY` and give COPY as root, or use protocol native"
        )


def _copy_clip(clip: LabelledClip, output: Path) -> int:
    """Resize what is missing of one sequence, or was put there after it was copied, and drop what is gone; the number of files written."""
    written = 0
    for kind, ending, files in (("JPEGImages", ".jpg", clip.frames), ("Annotations", ".png", clip.labels)):
        folder = output / kind / RESOLUTIONS[0] / clip.name
        for path in files:
            target, status = folder / f"{path.stem}{ending}", path.stat()
            if not target.is_file() or target.stat().st_mtime < max(status.st_mtime, status.st_ctime):
                write_bytes(target, resized_bytes(path, ending))
                written += 1
        for gone in {file.stem for file in folder.glob(f"*{ending}")} - {path.stem for path in files}:
            (folder / f"{gone}{ending}").unlink()
    return written


def resized_bytes(path: Path, ending: str) -> bytes:
    """An image of 480x880 pixels (height x width) by nearest neighbours, encoded; ids and palette of an annotation stay as they are.

    Args:
        path: Frame or annotation.
        ending: .jpg for frames, .png for annotations.

    Raises:
        ValueError: if the file cannot be decoded.
    """
    buffer = io.BytesIO()
    try:
        with open_image(path) as image:
            resized = upright(image).resize((PREPARED_SIZE[1], PREPARED_SIZE[0]), Image.Resampling.NEAREST)
    except (OSError, ImageError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy it again from the data set's archive") from None
    if ending == ".jpg":
        resized.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    else:
        resized.save(buffer, format="PNG")
    return buffer.getvalue()
