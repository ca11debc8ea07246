"""A clip to evaluate, and the checks that clips of all data sets share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cdgmae.propagation.masks import INDEXED_MODES

FRAME_ENDINGS = (".jpg", ".jpeg", ".png")
SHOWN_PROBLEMS = 15
ASPECT_TOLERANCE = 0.02


class LayoutError(ValueError):
    """A clip set is not complete; the message names every faulty file or folder (the first 15) and the expected layout."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One video.

    Attributes:
        name: Sequence name, unique within the clip set.
        frames: Pictures in order.
        labels: One annotation per frame, or the single joint file.
        picture: (height, width) of the frames in pixels.
    """

    name: str
    frames: tuple[Path, ...]
    labels: tuple[Path, ...]
    picture: tuple[int, int]


def raise_problems(problems: Sequence[str], root: Path, title: str, layout: str) -> None:
    """Raise one `LayoutError` for all problems, if there are any."""
    if problems:
        shown = "".join(f"\n  - {problem}" for problem in problems[:SHOWN_PROBLEMS])
        more = f"\n  - and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise LayoutError(f"{title} in {root} cannot be used:{shown}{more}\nExpected layout: {layout}")


def read_names(path: Path) -> list[str]:
    """Non-empty lines of a list file, without surrounding white space; the last line needs no line break."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def repeated_names(names: Sequence[str], origin: Path) -> list[str]:
    """One problem per name that a list holds twice."""
    return [f"{origin} lists {name!r} {names.count(name)} times" for name in sorted(set(names)) if names.count(name) > 1]


def pictures_in(folder: Path, endings: Iterable[str], problems: list[str], skip: str | None = None) -> dict[str, Path]:
    """Stem -> file for the pictures of a folder, sorted by stem; hidden files and stems that contain `skip` are passed over."""
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder")
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in endings or path.name.startswith(".") or (skip and skip in path.stem):
            continue
        if path.stem in found:
            problems.append(f"{path}: a second file for frame {path.stem} beside {found[path.stem].name}")
        found[path.stem] = path
    if not found:
        problems.append(f"{folder}: holds no {'/'.join(endings)} files")
    return dict(sorted(found.items()))


def missing_numbers(stems: Iterable[str], first: int, folder: Path, ending: str) -> list[str]:
    """Problems for gaps in five-digit numbering that should run first, first + 1, ..., named with the expected file."""
    stems = set(stems)
    odd = sorted(stem for stem in stems if not (stem.isascii() and stem.isdecimal()))
    if odd:
        return [f"{folder / (stem + ending)}: frames are named by number, e.g. {first:05d}{ending}" for stem in odd]
    numbers = {int(stem) for stem in stems}
    return [
        f"{folder / f'{number:05d}{ending}'}: missing"
        for number in range(first, max(numbers, default=0))
        if number not in numbers
    ]


def unmatched(frames: Mapping[str, Path], labels: Mapping[str, Path]) -> list[str]:
    """Problems for frames without annotation and annotations without frame, named with the missing file."""
    if not frames or not labels:
        return []
    frame, label = next(iter(frames.values())), next(iter(labels.values()))
    return [
        *(
            f"{label.with_name(stem + label.suffix)}: missing, frame {stem} has no annotation"
            for stem in frames
            if stem not in labels
        ),
        *(
            f"{frame.with_name(stem + frame.suffix)}: missing, annotation {stem} has no frame"
            for stem in labels
            if stem not in frames
        ),
    ]


def common_size(files: Iterable[Path], problems: list[str], modes: Sequence[str] = ()) -> tuple[int, int] | None:
    """(height, width) of all files, read from their headers; deviating or unreadable ones become problems.

    Args:
        files: Pictures.
        problems: Receives what is wrong.
        modes: Allowed Pillow modes; empty allows any.
    """
    size: tuple[int, int] | None = None
    for path in files:
        try:
            with Image.open(path) as image:
                found, mode = (image.height, image.width), image.mode
        except OSError as error:
            problems.append(f"{path}: cannot be read as a picture ({type(error).__name__})")
            continue
        size = size or found
        if found != size:
            problems.append(f"{path}: {found[1]}x{found[0]} pixels, but the first file of its folder has {size[1]}x{size[0]}")
        if modes and mode not in modes:
            problems.append(f"{path}: holds {mode} pixels; annotations are indexed (palette) or grey 8-bit PNGs of ids")
    return size


def mask_clip(name: str, frames: Mapping[str, Path], labels: Mapping[str, Path], problems: list[str]) -> Clip | None:
    """A clip with one annotation per frame, or None after adding what is wrong to `problems`."""
    before = len(problems)
    problems += unmatched(frames, labels)
    picture = common_size(frames.values(), problems)
    label_size = common_size(labels.values(), problems, INDEXED_MODES)
    if picture and label_size:
        ratio = picture[1] / picture[0] * label_size[0] / label_size[1]
        if abs(ratio - 1) > ASPECT_TOLERANCE:
            problems.append(
                f"{next(iter(labels.values()))}: {label_size[1]}x{label_size[0]} pixels has another shape than its frame, "
                f"{picture[1]}x{picture[0]}"
            )
    if len(problems) > before or picture is None or label_size is None:
        return None
    return Clip(name, tuple(frames.values()), tuple(labels[stem] for stem in frames), picture)
