"""The study's data in one file, small enough to be brought to a machine without a network."""

from __future__ import annotations

import tarfile
from collections import defaultdict
from pathlib import Path

PRESET = 1
"""Photographs do not compress; what this saves is the tar's own blocks."""

OF_A_MEMBER = 200
"""Bytes that a member costs beside its content, once compressed: estimated high."""


def write_bundle(data: Path, output: Path, limit: int) -> dict[str, int]:
    """Write all clips, then as many images as fit, evenly from all classes, in the order of their names.

    Args:
        data: Folder with `images/`, `DAVIS/` and `JHMDB/`.
        output: File to write (.tar.xz).
        limit: Largest size in bytes.

    Returns:
        `images`, `bytes`.

    Raises:
        ValueError: if the clips alone do not fit, or there are no images.
    """
    clips = [path for name in ("DAVIS", "JHMDB") for path in sorted((data / name).rglob("*")) if path.is_file()]
    classes: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted((data / "images").rglob("*")):
        if path.is_file():
            classes[path.parent].append(path)
    if not clips or not classes:
        raise ValueError(f"{data} needs images/, DAVIS/ and JHMDB/; docs/small_study.md says where they come from")
    room = limit - sum(path.stat().st_size + OF_A_MEMBER for path in clips)
    chosen: list[Path] = []
    for turn in range(max(map(len, classes.values()))):
        for path in (files[turn] for files in classes.values() if turn < len(files)):
            room -= path.stat().st_size + OF_A_MEMBER
            if room >= 0:
                chosen.append(path)
    if not chosen:
        raise ValueError(f"the clips alone are larger than {limit / 1e6:.0f} MB; raise --megabytes")
    with tarfile.open(output, "w:xz", preset=PRESET) as tar:
        for path in (*clips, *chosen):
            tar.add(path, str(path.relative_to(data)))
    return {"images": len(chosen), "bytes": output.stat().st_size}


def open_bundle(file: Path, folder: Path) -> Path:
    """Unpack a bundle, once; the folder with its data.

    Raises:
        tarfile.FilterError: if a member would be written elsewhere.
    """
    marker = folder / "unpacked"
    if not marker.is_file():
        with tarfile.open(file) as tar:
            tar.extractall(folder, filter="data")
        marker.touch()
    return folder
