"""Section `views`: the view sources, one small class per kind, each with its own keys and no others; and the section itself.

Where a job needs only a part of a source's keys, that part is a class of its own (`NeighbourSettings`, ...), so that changing
another key reruns nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from cdgmae.settings.base import Name, Ratio, Settings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.shards import Resize
from cdgmae.settings.views import DrawingSettings, GeneratorSettings, SamplingSettings

BAD_VIEWS = "The stage fails when more than this share of the views is bad."
NUM_VIEWS = "Views per bag besides the real image, M."


class SourceBase(Settings):
    """What every view source has."""

    dataset: Name = Field(description="Data set of section `shards` whose images are the bags' real images.")

    @property
    def has_files(self) -> bool:
        """Whether this source writes view shards."""
        return True

    @property
    def encoder_settings(self) -> EncoderSettings | None:
        """The encoder this source needs itself, if any."""
        return None

    @property
    def generator_name(self) -> str | None:
        """The generator of `views.generators` this source needs, if any."""
        return None


class GeneratorSourceSettings(SourceBase):
    """Real image + samples of a self-supervised latent diffusion model (paper, section 3.1)."""

    kind: Literal["s_ldm", "rcg"] = Field(
        description="`s_ldm`: views sampled from a latent diffusion model trained here or imported. `rcg`: the same from an imported "
        "RCG generator (paper, Table 9)."
    )
    generator: Name = Field(description="Generator of `views.generators`.")
    sampling: SamplingSettings = Field(default=SamplingSettings(), description="Sampling; the paper's values if left out.")

    @property
    def num_views(self) -> int:
        """Views per bag besides the real image, M."""
        return self.sampling.num_views

    @property
    def generator_name(self) -> str | None:
        """The generator of `views.generators`."""
        return self.generator


class CropsSourceSettings(SourceBase):
    """The real image alone; the pretext task crops it (CropMAE)."""

    kind: Literal["crops"] = Field(description="`crops`: the real image alone. No files; the pretext crops it.")

    @property
    def has_files(self) -> bool:
        """No view shards: the bag is the real image."""
        return False

    @property
    def num_views(self) -> int:
        """No other view."""
        return 0


class RandomViewsSettings(Settings):
    """How random images are drawn into a bag."""

    num_views: int = Field(default=4, ge=1, le=64, description=NUM_VIEWS)


class RandomSourceSettings(SourceBase, RandomViewsSettings):
    """Real image + other random images of the data set (paper, Table 1: the floor)."""

    kind: Literal["random"] = Field(description="`random`: other images of the data set, drawn at random.")


class EmbeddingSettings(Settings):
    """How images are embedded for the nearest-neighbour search."""

    image_size: int = Field(
        default=224,
        ge=8,
        description="Side in pixels to which an image is scaled for the encoder (shorter side, central square).",
    )
    batch_size: int = Field(default=64, ge=1, description="Images per encoder pass.")


class NeighbourSettings(Settings):
    """How nearest neighbours are searched and which of them fill a bag."""

    num_views: int = Field(default=4, ge=1, le=64, description=NUM_VIEWS)
    duplicate_similarity: float = Field(
        default=0.98,
        gt=0.0,
        le=1.0,
        description="A neighbour of a larger cosine similarity is passed over as a duplicate of the real image. Equal files are always "
        "passed over; 1 keeps all others.",
    )
    max_bad_fraction: Ratio = Field(default=0.001, description=BAD_VIEWS)


class IndexSettings(Settings):
    """How the search index is built."""

    exact_up_to: int = Field(
        default=1_000_000,
        ge=0,
        description="Data sets of up to this many images are searched exactly, larger ones through an inverted file (IVF).",
    )
    num_probes: int = Field(default=64, ge=1, description="Cells of the inverted file that a search looks into.")


class KnnSourceSettings(SourceBase, EmbeddingSettings, NeighbourSettings, IndexSettings):
    """Real image + its nearest neighbours in an embedding space (paper, Tables 1 and 3)."""

    kind: Literal["knn"] = Field(description="`knn`: the nearest neighbours of the real image in the data set.")
    encoder: EncoderSettings = Field(description="Encoder whose CLS tokens are compared by cosine similarity.")

    @property
    def encoder_settings(self) -> EncoderSettings | None:
        """The embedding encoder."""
        return self.encoder


class FrameSettings(Settings):
    """Which later frames of a clip join its drawn first frame."""

    num_views: int = Field(
        default=4,
        ge=1,
        le=1024,
        description="Largest number of later frames per bag, M. A short clip gives as many as it has.",
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


class ClipReadingSettings(FrameSettings):
    """What one job of source kind `video` needs: its frames, and how the data set's images were prepared."""

    path: str = Field(description="Folder of the clips, as in `shards.datasets`.")
    resize: Resize = Field(default="none", description="As in `shards.datasets`, so that all frames of a bag have one size.")
    image_size: int = Field(default=256, ge=8, le=4096, description="Pixels, as in `shards.datasets`.")
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="JPEG quality of the stored frames.")
    max_pixels: int = Field(default=89_478_485, ge=1, description="Frames of more pixels are refused.")


class VideoSourceSettings(SourceBase, FrameSettings):
    """Frames of one clip in temporal order: view 0 is the frame that the shards stage drew, the views are later ones (SiamMAE)."""

    kind: Literal["video"] = Field(description="`video`: later frames of the clip. The data set must have layout `clips`.")


class PipelineSettings(DrawingSettings):
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


class DiffusersSourceSettings(SourceBase, PipelineSettings):
    """Real image + samples of an image-conditioned diffusers pipeline."""

    kind: Literal["diffusers"] = Field(description="`diffusers`: samples of any image-conditioned diffusers pipeline.")


SourceSettings = Annotated[
    GeneratorSourceSettings
    | CropsSourceSettings
    | KnnSourceSettings
    | RandomSourceSettings
    | VideoSourceSettings
    | DiffusersSourceSettings,
    Field(discriminator="kind"),
]
"""One view source of any kind."""


class ViewsSettings(Settings):
    """Section `views`."""

    generators: dict[Name, GeneratorSettings] = Field(default={}, description="Generators by name.")
    sources: dict[Name, SourceSettings] = Field(min_length=1, description="View sources by name.")
