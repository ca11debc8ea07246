"""A clip to evaluate, and the checks that clips of all data sets share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgmae.propagation.benchmarks.benchmark_kinds import kinds_laid_out_as
from cdgmae.propagation.layouts.image_files import check_modes, common_size, read_headers, show_size, unmatched
from cdgmae.propagation.measures.masks import INDEXED_MODES
from cdgmae.settings.reading.messages import LISTED

ASPECT_TOLERANCE = 0.02


class LayoutError(ValueError):
    """An evaluation set cannot be used; the message lists everything that is wrong and the expected layout.

    Attributes:
        problems: One sentence per fault, each beginning with the file or folder.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """One video with labels.

    Attributes:
        name: Sequence name, unique within the evaluation set.
        frames: Images in order.
        labels: One annotation per frame, or the single joint file.
        frame_size: (height, width) of the frames in pixels.
    """

    name: str
    frames: tuple[Path, ...]
    labels: tuple[Path, ...]
    frame_size: tuple[int, int]

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read."""
        return (*self.frames, *self.labels)

    @property
    def sizes(self) -> frozenset[tuple[int, int]]:
        """The one size of all frames."""
        return frozenset([self.frame_size])

    @property
    def num_frames(self) -> int:
        """Frames, all of which are embedded."""
        return len(self.frames)

    @property
    def num_painted(self) -> int:
        """Frames, on all of which predictions can be painted."""
        return len(self.frames)


def check_root(root: Path, folder: str, title: str) -> None:
    """Refuse a root that is not there, or that lies one level too deep or too high.

    Args:
        root: Given by the user.
        folder: A folder that a right root holds.
        title: The data set's name.

    Raises:
        LayoutError: naming the folder above or below that holds `folder`, if there is one.
    """
    if not root.is_dir():
        raise LayoutError(f"{root}: no such folder; set propagation.datasets.NAME.root (--root) to where {title} was unpacked")
    if (root / folder).is_dir():
        return
    near = [root.resolve().parent, *sorted(path for path in root.iterdir() if path.is_dir())]
    hint = next((path for path in near if (path / folder).is_dir()), None)
    if hint is not None:
        raise LayoutError(f"{root}: holds no {folder}, but {hint} does; give --root {hint}")
    if laid_out := kinds_laid_out_as(root):
        raise LayoutError(f"{root}: holds no {folder}, as {title} does; it is laid out as kind {' or '.join(laid_out)}")


def raise_problems(problems: Sequence[str], root: Path, title: str, layout: str) -> None:
    """Raise one `LayoutError` for all problems, if there are any."""
    if problems:
        listed = "".join(f"{LISTED}{problem}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise LayoutError(f"{title} in {root} cannot be used (expected layout: {layout}), {count}:{listed}", problems)


def read_names(path: Path) -> list[str]:
    """Non-empty lines of a list file, without surrounding white space; the last line needs no line break."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def listed_names(path: Path, problems: list[str]) -> list[str]:
    """Names of a list file, each once; a missing or empty list and repeated names become problems."""
    if not path.is_file():
        problems.append(f"{path}: missing")
        return []
    names = read_names(path)
    if not names:
        problems.append(f"{path}: lists no sequence")
    problems += [f"{path}: lists {name!r} {names.count(name)} times" for name in sorted(set(names)) if names.count(name) > 1]
    return list(dict.fromkeys(names))


def mask_clip(
    name: str, frames: Mapping[str, Path], labels: Mapping[str, Path], problems: list[str], *, same_size: bool
) -> LabelledClip | None:
    """A clip with one annotation per frame, or None after adding what is wrong to `problems`.

    Args:
        name: Of the clip.
        frames: Stem -> image.
        labels: Stem -> annotation.
        problems: Receives what is wrong.
        same_size: Whether annotations must have the size of their frames, or only their shape.
    """
    before = len(problems)
    problems += unmatched(frames, labels)
    label_headers = read_headers(labels.values(), problems)
    frame_size, label_size = common_size(read_headers(frames.values(), problems), problems), common_size(label_headers, problems)
    check_modes(label_headers, INDEXED_MODES, problems)
    if frame_size and label_size:
        ratio = frame_size[1] / frame_size[0] * label_size[0] / label_size[1]
        if same_size and label_size != frame_size:
            problems.append(_size_problem(labels, label_size, frame_size, "another size"))
        elif abs(ratio - 1) > ASPECT_TOLERANCE:
            problems.append(_size_problem(labels, label_size, frame_size, "another shape"))
    if len(problems) > before or frame_size is None or label_size is None:
        return None
    return LabelledClip(name, tuple(frames.values()), tuple(labels[stem] for stem in frames), frame_size)


def _size_problem(labels: Mapping[str, Path], label_size: tuple[int, int], frame_size: tuple[int, int], what: str) -> str:
    folder = next(iter(labels.values())).parent
    return f"{folder}: annotations of {show_size(label_size)} pixels have {what} than their frames, {show_size(frame_size)}"
