"""View source `s_ldm`: samples of a self-supervised latent diffusion model (Gen-SIS; paper, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from cdgmae import names
from cdgmae.settings.base import Name
from cdgmae.settings.shards import DatasetSettings
from cdgmae.settings.views import SamplingSettings
from cdgmae.views.sources.drawn_views import DrawnViews
from cdgmae.views.sources.view_source import ViewJob, ViewSettings, ViewSource

if TYPE_CHECKING:
    from cdgmae.config import Config
    from cdgmae.views.sampling.sampler import SamplerRecipe


class GeneratorViews(DrawnViews, SamplingSettings):
    """How views are drawn from a generator."""

    def recipe(self, job: ViewJob) -> SamplerRecipe:
        """The generator folder given as input `generator`, with these settings."""
        from cdgmae.runtime.compute import start_compute
        from cdgmae.views.sampling.generator_sampler import GeneratorRecipe

        return GeneratorRecipe(job.input("generator"), self, start_compute(job.runtime).precision, job.runtime.compile)


class GeneratorSource(ViewSource):
    """Real image + samples of a generator of `views.generators`."""

    views_class: ClassVar[type[ViewSettings] | None] = GeneratorViews
    on_gpu: ClassVar[bool] = True
    made_from_central_square: ClassVar[bool] = True

    generator: Name = Field(description="Generator of `views.generators`.")
    sampling: GeneratorViews = Field(default=GeneratorViews(), description="Sampling; the paper's values if left out.")

    @property
    def num_views(self) -> int:
        """Views per bag besides the real image, M."""
        return self.sampling.num_views

    @property
    def generator_name(self) -> str | None:
        """The generator of `views.generators`."""
        return self.generator

    def views(self, dataset: DatasetSettings) -> ViewSettings:
        """See `ViewSource`."""
        return self.sampling

    def inputs(self, name: str, config: Config) -> dict[str, str]:
        """The generator's folder: the given one, or the one trained in this DAG."""
        return {"generator": config.views.generators[self.generator].path or names.generator_dir(self.generator)}


class SLdmSource(GeneratorSource):
    """Real image + samples of a self-supervised latent diffusion model (paper, section 3.1)."""

    kind: Literal["s_ldm"] = Field(description="`s_ldm`: views sampled from a latent diffusion model trained here or imported.")
