"""View source `diffusers`: samples of any image-conditioned pipeline of the diffusers package."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from cdgmae.views.sources.drawn_views import DrawnViews
from cdgmae.views.sources.view_source import ViewJob, ViewSettings, ViewSource

if TYPE_CHECKING:
    from cdgmae.config import Config
    from cdgmae.views.sampling.sampler import SamplerRecipe


class PipelineViews(DrawnViews):
    """Any image-conditioned diffusers pipeline as a source of views."""

    pipeline: str = Field(
        pattern=r"^[A-Z]\w*$",
        description="Name of the pipeline class in diffusers, e.g. `StableDiffusionImageVariationPipeline`.",
    )
    path: str | None = Field(default=None, description="Folder that the pipeline's `save_pretrained` wrote; safetensors only.")
    hub: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="Name on the hub, OWNER/NAME, instead of a folder; safetensors only.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a name on the hub.")
    variant: str | None = Field(default=None, description="Variant of the weight files, e.g. `fp16`.")
    image_argument: str = Field(default="image", description="Argument of the call that takes the image.")
    image_size: int = Field(
        default=256, ge=8, description="Side in pixels of the central square that is given to the pipeline as an image."
    )
    arguments: dict[str, JsonValue] = Field(
        default={}, description="All other arguments of the call, e.g. {num_inference_steps: 25, guidance_scale: 3, height: 256}."
    )
    frames_are_views: bool = Field(
        default=False,
        description="For image-to-video pipelines: the frames of one call become the views of a bag, spread evenly, the first frame "
        "(the given image) left out. Otherwise every view is a call of its own with its own seed.",
    )
    batch_size: int = Field(
        default=1,
        ge=1,
        description="Rows per call. Above 1 the pipeline gets a list of images and of generators, which not every pipeline takes.",
    )

    @model_validator(mode="after")
    def _call_is_complete(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either `path` (a folder) or `hub` (a name on the hub)")
        taken = {
            self.image_argument: "image_argument",
            "generator": "the seeds",
            "output_type": "this package",
            "return_dict": "this package",
        }
        for name in self.arguments:
            if name in taken:
                raise ValueError(f"arguments.{name} is set by {taken[name]}; remove it")
        return self

    @property
    def name(self) -> str:
        """Folder or name on the hub."""
        return self.path or self.hub or ""

    def recipe(self, job: ViewJob) -> SamplerRecipe:
        """The pipeline, opened in the job's precision."""
        from cdgmae.runtime.compute import start_compute
        from cdgmae.views.sampling.pipeline_sampler import PipelineRecipe

        return PipelineRecipe(self, start_compute(job.runtime).precision)


class DiffusersSource(ViewSource, PipelineViews):
    """Real image + samples of an image-conditioned diffusers pipeline."""

    views_class: ClassVar[type[ViewSettings] | None] = PipelineViews
    on_gpu: ClassVar[bool] = True
    made_from_central_square: ClassVar[bool] = True

    kind: Literal["diffusers"] = Field(description="`diffusers`: samples of any image-conditioned diffusers pipeline.")

    @property
    def paths(self) -> dict[str, str]:
        """The pipeline's folder; a name on the hub is none."""
        return {"path": self.path} if self.path is not None else {}

    def inputs(self, name: str, config: Config) -> dict[str, str]:
        """The pipeline's folder; nothing for a name on the hub."""
        return {"pipeline": self.path} if self.path is not None else {}
