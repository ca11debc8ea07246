"""How anything that draws views plugs into the sampling machinery of `cdgmae.views.sampling.sample_shard`.

A *recipe* says what is drawn from and how; it is cheap, picklable and carries all provenance. Every process opens its own
*sampler* from the recipe on its device. A sampler turns images into conditions once per image, and conditions with seeds
into views. It knows nothing of shards, keys, batches, files, retries or processes: those belong to the machinery.

Shapes: B rows of a batch, V views per row (1 unless one call of the sampler gives several), H W height and width of a view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Provenance:
    """What every row of a view index says about how the view was made.

    Attributes:
        generator: Digest of all that shapes a view besides the settings: weights, encoder, noise schedule.
        sampler: Name of the scheduler or pipeline.
        steps: Denoising steps; None where there are none.
        guidance: Guidance scale; None where there is none.
        precision: fp32, bf16 or fp16.
    """

    generator: str
    sampler: str
    steps: int | None
    guidance: float | None
    precision: str


class DrawnViews(NamedTuple):
    """What `ViewSampler.views` returns.

    Attributes:
        pixels_BVHW3: uint8 images on the CPU. Rows with a problem may hold anything.
        problems: One entry per row: why it must not be used (e.g. "latents are not finite"), or None.
    """

    pixels_BVHW3: np.ndarray
    problems: list[str | None]


class ViewSampler(Protocol):
    """Draws views on one device."""

    def conditions(self, images: Sequence[Image.Image]) -> Tensor:
        """Conditions (len(images), ...) of upright RGB images of any size, on the sampler's device.

        Called once per image and job, and reused for all its views. The number of images is fixed by the machinery (which
        repeats an image to fill the last call), so compiled encoders see one shape. Row i depends on image i alone.
        """
        ...

    def views(self, conditions_B: Tensor, seeds: Sequence[int], between_steps: Callable[[], None]) -> DrawnViews:
        """Draw one row per condition.

        Always called with the full batch shape: the machinery repeats rows to fill a batch and drops their results. Row i
        is a function of (conditions_B[i], seeds[i]) alone, whatever the other rows hold: one `torch.Generator` per row,
        seeded with `seeds[i]` (63 bits), draws its noise.

        Args:
            conditions_B: Rows of `conditions`.
            seeds: One per row.
            between_steps: To be called after every denoising step; it raises when the job must stop at once.
        """
        ...


class SamplerRecipe(Protocol):
    """What a sampler is opened from: a picklable object (a frozen dataclass), cheap to make."""

    @property
    def provenance(self) -> Provenance:
        """Known without loading any weights."""
        ...

    @property
    def views_per_row(self) -> int:
        """V: 1, or the number of views that one seed gives (frames of a video model); view k is view (k - 1) % V of its row."""
        ...

    def open(self, device: torch.device) -> ViewSampler:
        """Load everything onto a device.

        Raises:
            ValueError: if the weights are missing, damaged or not those of `provenance`.
        """
        ...
