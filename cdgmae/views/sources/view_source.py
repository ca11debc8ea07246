"""What every view source is: one object that says what its views depend on, what it reads, and how it makes the views of one shard.

A source has two classes in `KIND.py`. The *source*, `ViewSource`, is an entry of `views.sources` in the configuration. Its *views*,
`ViewSettings`, are those of its keys that change the views: they are handed to the job, so that changing another key reruns nothing,
and make them. Import-light: the configuration reads these files, so what is heavy is imported when views are made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from cdgmae.settings.base import Name, Settings
from cdgmae.settings.crops import ShownRegion
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.settings.shards import DatasetSettings

if TYPE_CHECKING:
    from cdgmae.config import Config

BAD_VIEWS = "The stage fails when more than this share of the views is bad."


@dataclass(frozen=True, slots=True)
class ViewJob:
    """One shard whose bags are to be filled.

    Attributes:
        seed: Root of every random draw.
        shard: Image shard with the real images.
        all_shards: All image shards of the data set.
        output: View shard to write; its index goes beside it.
        work: Folder for finished views until the shard is whole.
        inputs: What else the kind reads, by the names of `ViewSource.inputs`.
        runtime: Device, precision, threads, processes.
    """

    seed: int
    shard: Path
    all_shards: Sequence[Path]
    output: Path
    work: Path
    inputs: Mapping[str, Path]
    runtime: RuntimeSettings

    def input(self, name: str) -> Path:
        """One of `inputs`.

        Raises:
            ValueError: if it was not given.
        """
        if name not in self.inputs:
            raise ValueError(f"this kind of view source reads {name}: give --input {name}=PATH")
        return self.inputs[name]


class ViewSettings(Settings):
    """The keys of a source that its views depend on."""

    keys_without_influence: ClassVar[frozenset[str]] = frozenset({"batch_size", "max_bad_fraction"})
    """Those, if a kind has them, on which no view depends: how fast views are made and how many of them may be bad."""

    @abstractmethod
    def make(self, job: ViewJob) -> dict[str, Any]:
        """Fill the bags of one shard.

        Returns:
            What was done, at least output, views and bad.

        Raises:
            ValueError: if something cannot be read or written, or too many views are bad.
        """


class ViewSource(Settings):
    """What every view source has."""

    views_class: ClassVar[type[ViewSettings] | None] = None
    """Class of its views; None: the bag is the real image alone and there are no view shards."""

    on_gpu: ClassVar[bool] = False
    """Whether its views are drawn by a network: such jobs want a GPU, and keep finished views in their work folder."""

    reads_all_shards: ClassVar[bool] = False
    """Whether a job reads the images of the whole data set, not only of its own shard."""

    made_from_central_square: ClassVar[bool] = False
    """Whether its views show the central square of the real image, as generators see it, and not the whole image."""

    dataset: Name = Field(description="Data set of section `shards` whose images are the bags' real images.")

    @property
    def has_files(self) -> bool:
        """Whether this source writes view shards."""
        return self.views_class is not None

    @property
    def encoder_settings(self) -> EncoderSettings | None:
        """The encoder this source needs itself, if any."""
        return None

    @property
    def generator_name(self) -> str | None:
        """The generator of `views.generators` this source needs, if any."""
        return None

    @property
    def has_equal_steps(self) -> bool:
        """Whether the bags hold frames of a clip at equal distances, as pretext `video_pairs` needs them."""
        return False

    @property
    def shown_region(self) -> ShownRegion:
        """What part of the real image a view shows, so that a shared crop can show the same region of both."""
        return "central_square" if self.made_from_central_square else "whole_image"

    @property
    def paths(self) -> dict[str, str]:
        """Key -> file or folder of the user's that must exist."""
        return {}

    def views(self, dataset: DatasetSettings) -> ViewSettings:
        """What a job gets to make this source's views.

        Args:
            dataset: The source's data set; frames of clips are prepared like its images.
        """
        assert self.views_class is not None, "a source without files has no jobs"
        return self.views_class(**{name: getattr(self, name) for name in self.views_class.model_fields})

    def inputs(self, name: str, config: Config) -> dict[str, str]:
        """Name -> file or folder that a job reads besides the shards: what must exist before it starts.

        Args:
            name: Name of the source.
            config: The configuration.
        """
        return {}

    def problems(self, dataset: DatasetSettings, num_images: int | None) -> Iterator[str]:
        """Why the data set cannot fill the bags, each beginning with `: ` or the name of a key.

        Args:
            dataset: The source's data set.
            num_images: How many images it has, where that is known before any job runs (the demo).
        """
        yield from ()


class CopiedViews(ViewSettings):
    """Views that are other images of the data set."""

    num_views: int = Field(default=4, ge=1, le=64, description="Views per bag besides the real image, M.")


class CopiedSource(ViewSource, CopiedViews):
    """A source that fills bags with other images of the data set."""

    reads_all_shards: ClassVar[bool] = True

    def problems(self, dataset: DatasetSettings, num_images: int | None) -> Iterator[str]:
        """A bag cannot hold more images than there are."""
        if num_images is not None and self.num_views >= num_images:
            yield f".num_views = {self.num_views}, but the demo has only {num_images} images (demo.num_tiles)"
