"""View source `random`: other images of the data set, drawn at random (paper, Table 1: the floor of consistency)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from cdgmae.views.sources.view_source import CopiedSource, CopiedViews, ViewJob, ViewSettings


class RandomViews(CopiedViews):
    """How random images are drawn into a bag."""

    def make(self, job: ViewJob) -> dict[str, Any]:
        """Fill each bag with M other images; see `gather_random`."""
        from cdgmae.views.gathering.copying import DataSetImages
        from cdgmae.views.gathering.random_views import gather_random

        return gather_random(self, job.seed, job.shard, DataSetImages(job.all_shards), job.output)


class RandomSource(CopiedSource, RandomViews):
    """Real image + other random images of the data set (paper, Table 1: the floor)."""

    views_class: ClassVar[type[ViewSettings] | None] = RandomViews

    kind: Literal["random"] = Field(description="`random`: other images of the data set, drawn at random.")
