"""View source `video`: later frames of the clip that a bag's real image was drawn from (SiamMAE; paper, Table 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cdgmae.settings.base import Ratio, Settings
from cdgmae.settings.shards import DatasetSettings, Resize
from cdgmae.views.sources.view_source import BAD_VIEWS, ViewJob, ViewSettings, ViewSource


class FrameSettings(Settings):
    """Which later frames of a clip join its drawn first frame."""

    num_views: int = Field(
        default=4, ge=1, le=1024, description="Largest number of later frames per bag, M. A short clip gives as many as it has."
    )
    frame_gap: tuple[int, int] | None = Field(
        default=None,
        description="Smallest and largest distance of a later frame from the first one, both included; the distances are drawn without "
        "repetition and sorted. SiamMAE: [4, 47], which is taken if neither key is given.",
    )
    frame_step: int | None = Field(
        default=None,
        ge=1,
        description="Instead of drawn distances, every frame_step-th frame after the first one: with 1 the bag holds consecutive "
        "frames, as pretext `video_pairs` needs them.",
    )
    max_bad_fraction: Ratio = Field(default=0.001, description=BAD_VIEWS)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.frame_gap is not None and self.frame_step is not None:
            raise ValueError("give either frame_gap (drawn distances) or frame_step (equal distances)")
        low, high = self.gap
        if not 1 <= low <= high:
            raise ValueError(
                f"frame_gap = [{low}, {high}] is no range of distances; give [smallest, largest] with 1 <= smallest <= largest"
            )
        if self.frame_step is None and self.num_views > high - low + 1:
            raise ValueError(
                f"num_views = {self.num_views}, but frame_gap = [{low}, {high}] has only {high - low + 1} different distances; "
                "widen it, lower num_views, or use frame_step"
            )
        return self

    @property
    def gap(self) -> tuple[int, int]:
        """`frame_gap`, or SiamMAE's 4..47."""
        return self.frame_gap or (4, 47)

    @property
    def reach(self) -> int:
        """Distance of the furthest frame that can join a bag."""
        return self.gap[1] if self.frame_step is None else self.frame_step * self.num_views


class ClipViews(ViewSettings, FrameSettings):
    """Which frames, and how the data set's images were prepared."""

    path: str = Field(description="Folder of the clips, as in `shards.datasets`.")
    resize: Resize = Field(default="none", description="As in `shards.datasets`, so that all frames of a bag have one size.")
    image_size: int = Field(default=256, ge=8, le=4096, description="Pixels, as in `shards.datasets`.")
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="JPEG quality of the stored frames.")
    max_pixels: int = Field(default=89_478_485, ge=1, description="Frames of more pixels are refused.")

    def make(self, job: ViewJob) -> dict[str, Any]:
        """Add later frames of each clip; see `read_clips`."""
        from cdgmae.views.gathering.clip_frames import read_clips

        return read_clips(self, job.seed, job.shard, job.output, threads=job.runtime.threads)


class VideoSource(ViewSource, FrameSettings):
    """Frames of one clip in temporal order: view 0 is the frame that the shards stage drew, the views are later ones (SiamMAE)."""

    views_class: ClassVar[type[ViewSettings] | None] = ClipViews

    kind: Literal["video"] = Field(description="`video`: later frames of the clip. The data set must have layout `clips`.")

    @property
    def has_equal_steps(self) -> bool:
        """Whether `frame_step` is given."""
        return self.frame_step is not None

    def views(self, dataset: DatasetSettings) -> ViewSettings:
        """The source's frames, prepared as the data set's images are."""
        frames = {name: getattr(self, name) for name in FrameSettings.model_fields}
        images = {name: getattr(dataset, name) for name in set(ClipViews.model_fields) - set(frames)}
        return ClipViews(**frames, **images)

    def problems(self, dataset: DatasetSettings, num_images: int | None) -> Iterator[str]:
        """The data set must have clips that reach far enough."""
        if dataset.layout != "clips":
            yield (
                f": kind video takes frames of clips, but shards.datasets.{self.dataset}.layout = {dataset.layout!r}; use 'clips'"
            )
        if self.reach > dataset.frames_after:
            yield (
                f": its bags reach {self.reach} frames beyond the first one, but the shards keep only "
                f"shards.datasets.{self.dataset}.frames_after = {dataset.frames_after} frames there; raise that to {self.reach}"
            )
