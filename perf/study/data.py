"""The folder `data/small_study` that the configuration names, from all images and clips."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

FRAMES = ("JPEGImages", "Annotations")


def lay_out(data: Path, target: Path, per_class: int) -> None:
    """Lay out the study's data: links to what is there, nothing is copied.

    `images` gets the first `per_class` images of every class, `guidance` the next one, `DAVIS_halved` every second frame under new numbers.

    Args:
        data: Folder with `images/`, `DAVIS/` and `JHMDB/`.
        target: Folder to make; one that is whole is left as it is.
        per_class: Images of every class to train on; 0 stands for all but the last one, which `guidance` gets. A class of one image has it in both.

    Raises:
        ValueError: if there are no images.
    """
    if target.is_dir():
        return
    making = target.with_name(f"{target.name}.part")
    shutil.rmtree(making, ignore_errors=True)
    classes: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted((data / "images").glob("*/*")):
        classes[path.parent].append(path)
    if not classes:
        raise ValueError(f"{data} needs images/, DAVIS/ and JHMDB/; docs/small_study.md says where they come from")
    for folder, files in classes.items():
        some = files[:per_class] if per_class else files[:-1] or files
        _link(making / "images" / folder.name, some)
        _link(making / "guidance" / folder.name, files[len(some) :][:1] or files[-1:])
    for name in ("DAVIS", "JHMDB"):
        (making / name).symlink_to((data / name).resolve())
    for kind, clip, frames in _davis_clips(data / "DAVIS"):
        _link(making / "DAVIS_halved" / kind / "480p" / clip, frames[::2], [f"{number:05d}" for number in range(len(frames))])
    shutil.copytree(data / "DAVIS/ImageSets", making / "DAVIS_halved/ImageSets")
    os.rename(making, target)


def _davis_clips(root: Path) -> Iterator[tuple[str, str, list[Path]]]:
    """(images or masks, clip, files in order)."""
    for kind in FRAMES:
        for clip in sorted((root / kind / "480p").iterdir()):
            yield kind, clip.name, sorted(clip.iterdir())


def _link(folder: Path, files: list[Path], stems: list[str] | None = None) -> None:
    folder.mkdir(parents=True)
    for file, stem in zip(files, stems or [file.stem for file in files], strict=False):
        (folder / f"{stem}{file.suffix}").symlink_to(file.resolve())
