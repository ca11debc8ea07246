"""Views that a network draws (kinds `s_ldm`, `rcg`, `diffusers`): resumable, with one process per GPU that the job sees."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from cdgmae.settings.views import DrawingSettings
from cdgmae.views.sources.view_source import ViewJob, ViewSettings

if TYPE_CHECKING:
    from cdgmae.views.sampling.sampler import SamplerRecipe


class DrawnViews(ViewSettings, DrawingSettings):
    """How views are drawn in batches."""

    @abstractmethod
    def recipe(self, job: ViewJob) -> SamplerRecipe:
        """What draws the views of a job."""

    def make(self, job: ViewJob) -> dict[str, Any]:
        """Draw every view that is not finished yet; see `sample_shard`."""
        from cdgmae.runtime.devices import limit_threads
        from cdgmae.views.sampling.sample_shard import sample_shard

        limit_threads(job.runtime.thread_limit)
        return sample_shard(self, job.seed, job.shard, self.recipe(job), job.output, job.work, runtime=job.runtime)
