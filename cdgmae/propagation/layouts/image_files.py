"""Folders of numbered images: what is there, what is missing, and what the headers say; nothing is decoded.

Every check returns or collects sentences that begin with the faulty files; files that follow each other share one sentence.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgmae.storage.media.clips import temporal_key
from cdgmae.storage.media.images import ImageError, open_image, upright_size

FRAME_ENDINGS = (".jpg", ".jpeg", ".png")
TAIL_BYTES = 4096
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


@dataclass(frozen=True, slots=True)
class Header:
    """What an image's header says: (height, width) of the upright image, Pillow mode, and the palette's RGB bytes (empty if it has none)."""

    size: tuple[int, int]
    mode: str
    palette: bytes


def list_images(folder: Path, endings: Iterable[str], problems: list[str], skip: str | None = None) -> dict[str, Path]:
    """Stem -> file for the images of a folder in temporal order (`frame9` before `frame10`), without hidden files and stems that contain `skip`."""
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder")
        return {}
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in endings or path.name.startswith(".") or (skip and skip in path.stem):
            continue
        if path.stem in images:
            problems.append(f"{path}: a second file for frame {path.stem} beside {images[path.stem].name}")
        images[path.stem] = path
    if not images:
        problems.append(f"{folder}: holds no {'/'.join(endings)} files")
    return dict(sorted(images.items(), key=lambda item: temporal_key(item[0])))


def common_ending(files: Mapping[str, Path], default: str) -> str:
    """The ending of the first file, or `default` if there is none: what a missing file would be called."""
    return next(iter(files.values())).suffix if files else default


def name_runs(files: Sequence[Path], order: Sequence[str]) -> list[str]:
    """Names of files of one folder, those that follow each other in `order` (stems) as `FOLDER/00005.jpg to 00034.jpg (30 files)`."""
    places = {stem: place for place, stem in enumerate(order)}
    runs = itertools.groupby(
        enumerate(sorted(files, key=lambda path: places[path.stem])), lambda item: places[item[1].stem] - item[0]
    )
    named = []
    for _, run in runs:
        paths = [path for _, path in run]
        named.append(str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name} ({len(paths)} files)")
    return named


def missing_numbers(stems: Iterable[str], first: int, folder: Path, ending: str) -> list[str]:
    """Problems for gaps in five-digit numbering that should run first, first + 1, ..., named with the expected files."""
    stems = set(stems)
    odd = sorted(stem for stem in stems if not (stem.isascii() and stem.isdecimal() and len(stem) == 5))
    if odd:
        return [f"{folder / (stem + ending)}: frames are named by five digits, {first:05d}{ending} and so on" for stem in odd]
    expected = [f"{number:05d}" for number in range(first, max((int(stem) for stem in stems), default=first))]
    absent = [folder / f"{stem}{ending}" for stem in expected if stem not in stems]
    if "00000" in stems and first == 1:
        return [f"{folder / f'00000{ending}'}: frames count from {first:05d}{ending}"]
    return [f"{files}: missing" for files in name_runs(absent, expected)]


def unmatched(frames: Mapping[str, Path], labels: Mapping[str, Path]) -> list[str]:
    """Problems for frames without annotation and annotations without frame, named with the missing files."""
    if not frames or not labels:
        return []
    order = sorted({*frames, *labels}, key=temporal_key)
    problems = []
    for have, lack, what in ((frames, labels, "frame"), (labels, frames, "annotation")):
        sample, other = next(iter(lack.values())), next(iter(have.values())).parent
        absent = [sample.with_name(stem + sample.suffix) for stem in have if stem not in lack]
        problems += [f"{files}: missing, {other} has the {what}" for files in name_runs(absent, order)]
    return problems


def read_headers(files: Iterable[Path], problems: list[str]) -> dict[Path, Header]:
    """Headers of images; unreadable files and files cut off before their end become problems."""
    headers: dict[Path, Header] = {}
    for path in files:
        try:
            with open_image(path) as image:
                palette = image.getpalette("RGB") if image.mode == "P" else None
                width, height = upright_size(image)
                headers[path] = Header((height, width), image.mode, bytes(palette or ()))
                marker = END_MARKERS.get(image.format or "")
            if marker and marker not in _tail(path):
                problems.append(
                    f"{path}: ends too early, only a part of it was copied; copy it again from the data set's archive"
                )
        except (OSError, ImageError) as error:
            problems.append(f"{path}: cannot be read as an image ({error}); copy it again from the data set's archive")
    return headers


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read()


def common_size(headers: Mapping[Path, Header], problems: list[str]) -> tuple[int, int] | None:
    """(height, width) that most images have; those of another size become problems. None without images."""
    if not headers:
        return None
    size: tuple[int, int] = Counter(header.size for header in headers.values()).most_common(1)[0][0]
    odd: dict[tuple[int, int], list[Path]] = defaultdict(list)
    for path, header in headers.items():
        if header.size != size:
            odd[header.size].append(path)
    order = [path.stem for path in headers]
    for odd_size, paths in odd.items():
        problems += [
            f"{files}: {show_size(odd_size)} pixels, but most files of the folder have {show_size(size)}"
            for files in name_runs(paths, order)
        ]
    return size


def check_modes(headers: Mapping[Path, Header], modes: Sequence[str], problems: list[str]) -> None:
    """Annotations that hold colours or deep numbers instead of 8-bit ids become problems.

    Args:
        headers: Of the annotations of one clip.
        modes: Allowed Pillow modes.
        problems: Receives what is wrong.
    """
    odd: dict[str, list[Path]] = defaultdict(list)
    for path, header in headers.items():
        if header.mode not in modes:
            odd[header.mode].append(path)
    order = [path.stem for path in headers]
    for mode, paths in odd.items():
        problems += [
            f"{files}: holds {mode} pixels; annotations are indexed (palette) or grey 8-bit PNGs of ids"
            for files in name_runs(paths, order)
        ]


def show_size(size: tuple[int, int]) -> str:
    """(height, width) as WIDTHxHEIGHT, the way image viewers write it."""
    return f"{size[1]}x{size[0]}"
