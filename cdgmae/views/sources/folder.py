"""View source `folder`: views that another tool made, matched to the real images by their file names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from cdgmae.settings.base import Ratio
from cdgmae.settings.crops import ShownRegion
from cdgmae.views.sources.view_source import BAD_VIEWS, ViewJob, ViewSettings, ViewSource

if TYPE_CHECKING:
    from cdgmae.config import Config


class FolderViews(ViewSettings):
    """Where the views lie and how many join a bag."""

    root: str = Field(
        description="Folder (or one tar) of the views: files or members of WebDataset tars, at any depth, named "
        "`{key}.{view_index}.EXT` or `{key}/NAME.EXT`. It is looked through once for every shard."
    )
    num_views: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Largest number of views per bag besides the real image, M: those of the smallest numbers.",
    )
    max_pixels: int = Field(default=89_478_485, ge=1, description="Views of more pixels are refused unread.")
    max_bad_fraction: Ratio = Field(default=0.001, description=BAD_VIEWS)

    def make(self, job: ViewJob) -> dict[str, Any]:
        """Copy the files that belong to the shard's images; see `gather_folder`."""
        from cdgmae.views.gathering.folder_files import gather_folder

        return gather_folder(self, job.shard, job.all_shards, job.output, threads=job.runtime.threads)


class FolderSource(ViewSource, FolderViews):
    """Real image + views that another tool made."""

    views_class: ClassVar[type[ViewSettings] | None] = FolderViews
    reads_all_shards: ClassVar[bool] = True

    kind: Literal["folder"] = Field(description="`folder`: views that another tool made, matched by name.")
    views_show: ShownRegion = Field(
        default="whole_image",
        description="What part of the real image the views show. `central_square`: the tool was given its central square, so that crops of "
        "the real image are drawn there, too.",
    )

    @property
    def shown_region(self) -> ShownRegion:
        """As the tool that made them."""
        return self.views_show

    @property
    def paths(self) -> dict[str, str]:
        """The folder of the views."""
        return {"root": self.root}

    def inputs(self, name: str, config: Config) -> dict[str, str]:
        """The folder of the views: files that are added to it make the views anew."""
        return {"root": self.root}
