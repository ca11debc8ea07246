"""Views of images at hand, without shards: what the stage draws, for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from cdgmae.generators.generator_folder import Generator
from cdgmae.models.normalisation import Images, to_images
from cdgmae.settings.views import SamplingSettings
from cdgmae.storage.image_shards import ImageRow
from cdgmae.views.sampling.batch import ViewMaker, rows_of_shard
from cdgmae.views.sampling.generator_sampler import DTYPES, GeneratorSampler, provenance_of


@dataclass(frozen=True)
class _GivenImages:
    """Images at hand with the keys that their random draws depend on; see `KeyedImages`."""

    keys: list[str]
    images: list[Image.Image]

    def __len__(self) -> int:
        return len(self.images)

    def row(self, row: int) -> ImageRow:
        """Its key."""
        return ImageRow(self.keys[row], view_index=0)

    def image(self, row: int) -> Image.Image:
        """The image."""
        return self.images[row]


def sample_views(
    images: Images,
    generator: Generator,
    *,
    num_views: int = 4,
    seed: int = 0,
    keys: Sequence[str] | None = None,
    scheduler: str = "ddim",
    num_inference_steps: int = 50,
    guidance_scale: float = 6.0,
    eta: float = 0.0,
    batch_size: int = 32,
    precision: str = "fp32",
) -> list[list[Image.Image]]:
    """Draw views of real images from a latent diffusion model (paper, section 3.1).

    View k of an image is a function of (seed, key, k), so that more images, more views or other batches change none, but for rounding. With the
    keys of a shard, the seed and the settings of a workflow, these are the workflow's views before they are stored as JPEG.

    Args:
        images: The real images, of any size.
        generator: What draws; `load_generator` gives one. It is made ready for one precision and stays so.
        num_views: Views per image. Paper: 4.
        seed: Root of every random draw.
        keys: A name per image; "0", "1", ... if left out.
        scheduler: `ddim`, `dpm_solver` or `unipc`. Paper: ddim.
        num_inference_steps: Sampling steps. Paper: 50.
        guidance_scale: s in e_u + s (e_c - e_u); 1 switches guidance off. Paper: 6.
        eta: DDIM's noise share. Paper: 0.
        batch_size: Views drawn together.
        precision: fp32, bf16 or fp16.

    Returns:
        For each image the list of its views, RGB, at the generator's size.

    Raises:
        ValueError: if an image is none, keys are repeated or too few, a setting is out of range, or a view cannot be drawn even from a second
            seed.
    """
    if not isinstance(generator, Generator):
        raise ValueError(f"generator: found {type(generator).__name__}; give what load_generator returns")
    given = to_images(images, "images")
    names = [str(position) for position in range(len(given))] if keys is None else list(keys)
    if len(names) != len(given) or len(set(names)) != len(names):
        raise ValueError(f"{len(given)} images and {len(names)} keys, {len(set(names))} of them distinct; give one key per image")
    sampling = {
        "num_views": num_views, "scheduler": scheduler, "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale,
        "eta": eta, "batch_size": batch_size,
    }  # fmt: skip
    settings = SamplingSettings.checked(sampling, "sample_views")
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r}; allowed: {', '.join(DTYPES)}")
    dtype, pipeline = DTYPES[precision], generator.pipeline
    if pipeline.unet.dtype not in (DTYPES["fp32"], dtype):
        raise ValueError(f"the generator was made ready for {pipeline.unet.dtype}; load it again for precision {precision}")
    sampler = GeneratorSampler(generator, settings, dtype, pipeline.device)
    provenance = provenance_of(generator.metadata, settings, precision)
    maker = ViewMaker(sampler, provenance, _GivenImages(names, given), settings, seed)
    rows = rows_of_shard(len(given), num_views, 1)
    views: list[list[Image.Image]] = [[] for _ in given]
    for start in range(0, len(rows), batch_size):
        items = rows[start : start + batch_size]
        for item, (row, pixels_HW3) in zip(items, maker.draw(items), strict=True):
            if pixels_HW3 is None:
                raise ValueError(f"view {row.view_index} of image {row.key!r} cannot be drawn: {row.reason}")
            views[item.image_index].append(Image.fromarray(pixels_HW3))
    return views
