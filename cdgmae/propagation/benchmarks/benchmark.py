"""What a kind of evaluation set is: one object that reads, measures and describes it.

Light: the configuration is checked with these objects, so whatever needs torch, NumPy or Pillow is imported inside methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from cdgmae.settings.protocol import ClipProtocol, ProtocolSettings

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from cdgmae.models.encoders.frozen_encoder import Encoder
    from cdgmae.propagation.layouts.labelled_clip import LabelledClip

SIZE_COLUMNS = ("input_height", "input_width", "scored_height", "scored_width")

FIRST_FRAME = "The first frame with its given labels, then predictions, at equal distances up to the last frame. "
"""How painted frames of a clip are to be read."""

MASK_PAINTING = (
    f"{FIRST_FRAME}A white outline encloses what differs from the annotation; thin differences along borders are left out."
)

Row = Mapping[str, Any]
AnyProtocol = TypeVar("AnyProtocol", bound=ProtocolSettings)
AnySequence = TypeVar("AnySequence", bound="EvaluationSequence")
AnyClipProtocol = TypeVar("AnyClipProtocol", bound=ClipProtocol)


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that a set is measured by; higher is better.

    Attributes:
        name: Unique among the measures of all kinds, e.g. `J&F`.
        meaning: What it is, for a reader of the page, without a full stop.
        unit: Of its values.
        shown: Whether it stands in tables beside the other measures, or in the summary alone.
    """

    name: str
    meaning: str
    unit: str = "percent"
    shown: bool = True


class EvaluationSequence(Protocol):
    """A part of a set that is computed as a whole and scored by itself: a clip, or the image pairs of a category."""

    @property
    def name(self) -> str:
        """Unique within the set; becomes the name of files."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read."""
        ...

    @property
    def sizes(self) -> frozenset[tuple[int, int]]:
        """(height, width) of its images in pixels, each once."""
        ...

    @property
    def num_frames(self) -> int:
        """Images that are embedded."""
        ...

    @property
    def num_painted(self) -> int:
        """Images that its predictions can be painted on."""
        ...


class Predictions(Protocol):
    """What one sequence gave."""

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the table: `item`, `item_name`, `size_columns` and the columns of the kind."""
        ...

    def predictions(self) -> dict[str, bytes]:
        """Files of the predictions: path below the output folder -> bytes."""
        ...

    def images(self) -> Iterator[Image.Image]:
        """All images with the predictions painted over them."""
        ...

    def image(self, index: int, longer_side: int) -> Image.Image:
        """One image with its predictions painted over it, `longer_side` pixels large; those of a clip's first frame are given."""
        ...


class Scorer(Predictions, Protocol):
    """Fed frame by frame with soft labels, measures as it goes; afterwards it holds what a clip gave."""

    def first_labels(self) -> Tensor:
        """Soft labels (N, C) of frame 0 on the CPU."""
        ...

    def add(self, frame: int, labels_NC: Tensor) -> None:
        """Decode and measure the labels of one frame; frames come in order from 0."""
        ...


class Benchmark(ABC, Generic[AnyProtocol, AnySequence]):
    """A kind of evaluation set.

    Attributes:
        kind: Its name in the configuration.
        title: The data set's name.
        label: A short name for headings.
        layout: Files and folders in the root of such a set, by which it is known.
        protocol: Settings of a set of this kind; the defaults are the paper's.
        rules: Name of the published evaluation that is reproduced; another one as soon as any of its rules changes.
        measures: What it is measured by, the headline measure first.
        columns: Columns of its table besides those that all tables have -> int (a count) or float (a fraction).
        meaning: What the headline measure is over one sequence.
        painting: What a reader of painted frames must know.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    label: ClassVar[str]
    layout: ClassVar[tuple[str, ...]]
    protocol: type[AnyProtocol]
    rules: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    columns: ClassVar[Mapping[str, type]]
    meaning: ClassVar[str]
    painting: ClassVar[str]

    @property
    def headline(self) -> Measure:
        """The measure by which encoders are compared and sequences ordered."""
        return self.measures[0]

    @abstractmethod
    def read(self, protocol: AnyProtocol) -> list[AnySequence]:
        """All sequences of a set, in the order of its list file, checked.

        Raises:
            LayoutError: if anything is missing or inconsistent; lists all of it.
        """

    @abstractmethod
    def check_input(self, sequences: Sequence[AnySequence], protocol: AnyProtocol, patch_size: int) -> None:
        """Refuse an input size that does not fit the encoder, before anything is computed.

        Raises:
            ValueError: naming sizes that fit.
        """

    @abstractmethod
    def evaluate(
        self, sequence: AnySequence, protocol: AnyProtocol, encoder: Encoder, device: torch.device, painted: Container[int] = ()
    ) -> Predictions:
        """Compute one sequence.

        Args:
            sequence: One of `read`.
            protocol: The same settings.
            encoder: On `device`.
            device: Where features and affinities are computed.
            painted: Images whose predictions will be painted or written.
        """

    @abstractmethod
    def scores(self, rows: Sequence[Row]) -> dict[str, float]:
        """Measure -> value of all sequences whose rows are given; not a number where nothing could be counted."""


class LabelledClipBenchmark(Benchmark[AnyClipProtocol, "LabelledClip"]):
    """A kind whose sequences are labelled clips."""

    def check_input(self, sequences: Sequence[LabelledClip], protocol: AnyClipProtocol, patch_size: int) -> None:
        """See `Benchmark`; every clip may have its own size."""
        from cdgmae.propagation.engine.frames import clip_grid

        for clip in sequences:
            clip_grid(clip, protocol.input_size, patch_size)


class ClipBenchmark(LabelledClipBenchmark[AnyClipProtocol]):
    """A kind of clips: the labels of the first frame travel to all later ones, by CropMAE's rules."""

    rules = "cropmae"

    @abstractmethod
    def scorer(
        self,
        clip: LabelledClip,
        protocol: AnyClipProtocol,
        sides: tuple[int, int],
        grid: tuple[int, int],
        painted: Container[int],
    ) -> Scorer:
        """What gives the labels of frame 0 and measures those of the later frames.

        Args:
            clip: The clip.
            protocol: The set's settings.
            sides: (H, W) of the encoder's input.
            grid: (rows, columns) of patches.
            painted: Frames whose predictions will be asked for.
        """

    def evaluate(
        self,
        sequence: LabelledClip,
        protocol: AnyClipProtocol,
        encoder: Encoder,
        device: torch.device,
        painted: Container[int] = (),
    ) -> Predictions:
        """See `Benchmark`."""
        from cdgmae.propagation.engine.frames import clip_grid
        from cdgmae.propagation.engine.streaming import stream_clip

        sides, grid = clip_grid(sequence, protocol.input_size, encoder.patch_size)
        scorer = self.scorer(sequence, protocol, sides, grid, painted)
        stream_clip(sequence, scorer, encoder, protocol, device)
        return scorer


def size_columns(input_sides: tuple[int, int], scored_size: tuple[int, int]) -> dict[str, int]:
    """The columns that say at which (height, width) images were embedded and predictions compared with the truth."""
    return dict(zip(SIZE_COLUMNS, (*input_sides, *scored_size), strict=True))


def mean_percent(values: Iterable[float]) -> float:
    """The mean of fractions in percent; not a number without any."""
    fractions = list(values)
    return 100 * (sum(fractions) / len(fractions)) if fractions else float("nan")


def totals(rows: Sequence[Row], column: str) -> dict[int, int]:
    """Item -> sum of a count over all sequences."""
    sums: dict[int, int] = {}
    for row in rows:
        sums[row["item"]] = sums.get(row["item"], 0) + row[column]
    return sums
