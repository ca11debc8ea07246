"""Views that a network draws (kinds `s_ldm`, `rcg`, `diffusers`): resumable, with one process per GPU that the job sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from cdgmae.settings.views import DrawingSettings
from cdgmae.views.sources.view_source import ViewJob, ViewSettings

if TYPE_CHECKING:
    from cdgmae.views.sampling.sampler import SamplerRecipe


class DrawnViews(ViewSettings, DrawingSettings):
    """How views are drawn in batches."""

    machine_keys: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    def recipe(self, job: ViewJob) -> SamplerRecipe:
        """What draws the views of a job."""
        raise NotImplementedError

    def make(self, job: ViewJob) -> dict[str, Any]:
        """Draw every view that is not finished yet; see `sample_shard`."""
        from cdgmae.runtime.devices import limit_threads, pick_device, worker_devices
        from cdgmae.views.sampling.sample_shard import sample_shard

        runtime = job.runtime
        limit_threads(runtime.threads)
        return sample_shard(
            self, job.seed, job.shard, self.recipe(job), job.output, job.work,
            devices=worker_devices(pick_device(runtime.device), runtime.workers), threads=runtime.threads,
            log_interval_seconds=runtime.log_interval_seconds,
        )  # fmt: skip
