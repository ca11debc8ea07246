"""View source `diffusers`: any image-conditioned pipeline of diffusers as a view sampler (see `cdgmae.views.sampling.sampler`).

The condition of an image is the image itself. Every row has a generator of its own, on the CPU, so that a view depends on
neither the batch nor the device's random numbers. Pipelines load from safetensors, with classes of diffusers and transformers alone.
Shapes: B rows of a batch, V views per row, F frames of a video, S side of the given image, H W height and width of a view.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor

from cdgmae.runtime.compute import set_float32_meaning
from cdgmae.storage.hub import FETCH_ADVICE, use_cache_without_network
from cdgmae.storage.media.images import center_crop, resize_shorter_side
from cdgmae.storage.tables import folder_digest
from cdgmae.views.sampling.generator_sampler import DTYPES
from cdgmae.views.sampling.sampler import DrawnViews, Provenance
from cdgmae.views.sources.diffusers import PipelineViews

LIBRARIES = ("diffusers", "transformers")
"""Where a pipeline's parts may come from, besides diffusers' own pipeline modules."""


@dataclass(frozen=True)
class PipelineRecipe:
    """How to open a pipeline.

    Attributes:
        settings: Class, folder or name on the hub, call arguments.
        precision: fp32, bf16 or fp16: dtype of all weights.
    """

    settings: PipelineViews
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Check the precision and the call.

        Raises:
            ValueError: if the precision or the class is unknown, or its call does not take the arguments.
        """
        if self.precision not in DTYPES:
            raise ValueError(f"precision {self.precision!r}; allowed: {', '.join(DTYPES)}")
        check_call(pipeline_class(self.settings.pipeline), self.settings)

    @property
    def views_per_row(self) -> int:
        """All views of a bag where they are frames of one video, else 1."""
        return self.settings.num_views if self.settings.frames_are_views else 1

    @cached_property
    def folder(self) -> Path:
        """The folder with the pipeline's files; a name on the hub is downloaded once, by diffusers.

        Raises:
            ValueError: if it cannot be found, or names code of its own.
        """
        settings = self.settings
        folder = Path(settings.path) if settings.path is not None else download(settings)
        check_parts(folder)
        return folder

    @cached_property
    def provenance(self) -> Provenance:
        """See `SamplerRecipe`; the digest is that of the folder's files."""
        steps, guidance = (self.settings.arguments.get(name) for name in ("num_inference_steps", "guidance_scale"))
        return Provenance(
            generator=folder_digest(self.folder), sampler=self.settings.pipeline, steps=steps if isinstance(steps, int) else None,
            guidance=float(guidance) if isinstance(guidance, int | float) else None, precision=self.precision,
        )  # fmt: skip

    def open(self, device: torch.device) -> PipelineSampler:
        """See `SamplerRecipe`."""
        _draw_no_bars()
        set_float32_meaning(device, self.precision)
        try:
            pipeline = pipeline_class(self.settings.pipeline).from_pretrained(
                self.folder, torch_dtype=DTYPES[self.precision], use_safetensors=True, variant=self.settings.variant, trust_remote_code=False
            )  # fmt: skip
        except (OSError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, ValueError) as error:
            raise ValueError(
                f"{self.settings.name} cannot be loaded as {self.settings.pipeline} ({type(error).__name__}: {error}); give a folder that "
                "its save_pretrained wrote, with safetensors (views.sources.NAME.path)"
            ) from None
        pipeline.set_progress_bar_config(disable=True)
        return PipelineSampler(pipeline.to(device), self.settings)


class PipelineSampler:
    """Draws views by calling a pipeline; see `ViewSampler`."""

    def __init__(self, pipeline: Any, settings: PipelineViews) -> None:
        self.pipeline, self.settings = pipeline, settings

    def conditions(self, images: Sequence[Image.Image]) -> Tensor:
        """The images' central squares (len(images), S, S, 3), uint8 on the CPU: the pipeline takes images, not tensors."""
        side = self.settings.image_size
        squares = [center_crop(resize_shorter_side(image, side), side) for image in images]
        return torch.from_numpy(np.stack([np.asarray(square, dtype=np.uint8) for square in squares]))

    def views(self, conditions_B: Tensor, seeds: Sequence[int], between_steps: Callable[[], None]) -> DrawnViews:
        """See `ViewSampler`; a batch of one is given as an image and a generator, a larger one as lists of them.

        Raises:
            ValueError: if the pipeline gives images where frames are wanted, frames where images are, or too few of them.
        """
        images = [Image.fromarray(square) for square in conditions_B.numpy()]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        one = len(images) == 1
        output = self.pipeline(
            **{self.settings.image_argument: images[0] if one else images},
            **self.settings.arguments,
            **callbacks(self.pipeline, between_steps),
            generator=generators[0] if one else generators,
            output_type="np",
        )
        values_BVHW3 = self._chosen(output)
        finite_B = np.isfinite(values_BVHW3).reshape(len(images), -1).all(axis=1)
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(images)
        pixels_BVHW3 = np.rint(np.clip(np.nan_to_num(values_BVHW3), 0, 1) * 255).astype(np.uint8)
        return DrawnViews(pixels_BVHW3, [_problem(*row) for row in zip(finite_B.tolist(), flagged, strict=True)])

    def _chosen(self, output: Any) -> np.ndarray:
        """The images of each row, (B, V, H, W, 3) in 0..1: one image, or M frames spread evenly from the second to the last."""
        name = "frames" if self.settings.frames_are_views else "images"
        images = getattr(output, name, None)
        if images is None:
            raise ValueError(
                f"{self.settings.pipeline} gives no {name}; set views.sources.NAME.frames_are_views = {not self.settings.frames_are_views}"
            )
        values = np.asarray(images, dtype=np.float32)
        if not self.settings.frames_are_views:
            return values[:, None]
        last, wanted = values.shape[1] - 1, self.settings.num_views
        if last < wanted:
            raise ValueError(
                f"{self.settings.pipeline} gives {last} frames after the first one, num_views = {wanted}; lower num_views or raise the "
                "number of frames in views.sources.NAME.arguments"
            )
        return values[:, [round(k * last / wanted) for k in range(1, wanted + 1)]]


def pipeline_class(name: str) -> Any:
    """The pipeline class of this name in diffusers.

    Raises:
        ValueError: if there is none, or it needs a package that is not installed.
    """
    pipeline = getattr(diffusers, name, None)
    if isinstance(pipeline, type) and issubclass(pipeline, diffusers.DiffusionPipeline):
        return pipeline
    missing = [backend for backend in getattr(pipeline, "_backends", []) if backend != "torch"]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}: pip install 'cdgmae[pipelines]'")
    known = [entry for entry in dir(diffusers) if entry.endswith("Pipeline")]
    close = difflib.get_close_matches(name, known, n=1)
    raise ValueError(
        f"views.sources.NAME.pipeline = {name!r} is no pipeline class of diffusers {diffusers.__version__}"
        + (f"; did you mean {close[0]!r}?" if close else "; see its documentation for the names")
    )


def check_call(kind: Any, settings: PipelineViews) -> None:
    """Check that a pipeline's call takes the image, a generator and all configured arguments.

    Raises:
        ValueError: naming the argument it does not take, and those it does.
    """
    taken = inspect.signature(kind.__call__).parameters
    wanted = [settings.image_argument, "generator", "output_type", *settings.arguments]
    unknown = [name for name in wanted if name not in taken]
    if unknown:
        raise ValueError(
            f"{settings.pipeline} takes no argument {', '.join(unknown)}; its arguments: {', '.join(list(taken)[1:])}"
        )


def check_parts(folder: Path) -> None:
    """Refuse a pipeline folder whose parts are code of its own.

    Raises:
        ValueError: if there is no pipeline in the folder, or a part is neither of diffusers nor of transformers.
    """
    try:
        index = diffusers.DiffusionPipeline.load_config(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no diffusers pipeline ({error}); give a folder that save_pretrained wrote") from None
    parts = {name: entry[0] for name, entry in index.items() if isinstance(entry, list | tuple) and len(entry) == 2 and entry[0]}
    foreign = [
        name for name, origin in parts.items() if origin not in LIBRARIES and not hasattr(diffusers.pipelines, str(origin))
    ]
    if not isinstance(index.get("_class_name"), str):
        foreign.append("_class_name")
    foreign += [str(nested.relative_to(folder)) for nested in folder.glob("*/**/model_index.json")]  # a pipeline as a part
    if foreign or list(folder.rglob("*.py")):
        raise ValueError(
            f"{folder} brings code of its own ({', '.join(foreign) or '.py files'}), which is not run; only parts of diffusers and "
            "transformers are loaded"
        )


def download(settings: PipelineViews) -> Path:
    """Fetch a pipeline from the hub into its cache, safetensors only.

    Raises:
        ValueError: if the hub cannot be reached or has no such pipeline.
    """
    use_cache_without_network()
    try:
        return Path(diffusers.DiffusionPipeline.download(
            settings.hub, revision=settings.revision, variant=settings.variant, use_safetensors=True, trust_remote_code=False
        ))  # fmt: skip
    except Exception as error:  # whatever the network and the hub may raise
        raise ValueError(
            f"views.sources.NAME.hub = {settings.hub!r} cannot be fetched ({type(error).__name__}: {error}). {FETCH_ADVICE}; or fetch "
            "it elsewhere and give its folder as `path`."
        ) from None


def callbacks(pipeline: Any, between_steps: Callable[[], None]) -> dict[str, Any]:
    """The call's arguments that make a pipeline call `between_steps` after every step; none where it has no such hook."""

    def on_step_end(_pipeline: Any, _step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        between_steps()
        return {}

    taken = inspect.signature(pipeline.__call__).parameters
    if "callback_on_step_end" in taken:
        return {"callback_on_step_end": on_step_end}
    return {"callback": lambda *_: between_steps()} if "callback" in taken else {}


def _draw_no_bars() -> None:
    """The libraries would draw bars into the job's log."""
    diffusers_logging.disable_progress_bar()
    if importlib.util.find_spec("transformers") is not None:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


def _problem(finite: bool, flagged: bool) -> str | None:
    if not finite:
        return "image is not finite"
    return "refused by the pipeline's safety checker" if flagged else None
