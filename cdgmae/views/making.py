"""Making one batch of views on the device: conditions, start noise, sampling, decoding, and what to do with bad samples.

Shapes: B rows of the fixed batch shape, C latent channels, h w latent height and width, D embedding width, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdgmae.models.latent_diffusion import LatentDiffusionPipeline
from cdgmae.runtime.seeds import integer_seed
from cdgmae.settings.views import SamplingSettings
from cdgmae.storage.images import PictureError, encode_jpeg
from cdgmae.views.generator_folder import Generator, embed
from cdgmae.views.parts import MadeView
from cdgmae.views.pictures import PictureCollection, squares

SEED_STREAM = "views"
RETRY_STREAM = "views/retry"
AUTOCAST_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Item(NamedTuple):
    """One view to make: which picture of the collection, and the view's index 1..M."""

    picture: int
    view_index: int


class ViewMaker:
    """Samples batches of views in one fixed shape."""

    def __init__(
        self,
        generator: Generator,
        pictures: PictureCollection,
        settings: SamplingSettings,
        seed: int,
        *,
        device: torch.device,
        precision: str,
    ) -> None:
        """Prepare the generator for the settings' scheduler.

        Raises:
            ValueError: if the precision is unknown.
        """
        if precision not in AUTOCAST_DTYPES:
            raise ValueError(f"precision {precision!r}; allowed: {', '.join(AUTOCAST_DTYPES)}")
        self.generator, self.pictures, self.settings, self.seed = generator, pictures, settings, seed
        self.device, self.dtype = device, AUTOCAST_DTYPES[precision]
        self.pipeline: LatentDiffusionPipeline = generator.pipeline
        self.pipeline.set_scheduler(settings.scheduler)
        self.pipeline.unet.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def make(self, items: Sequence[Item]) -> list[MadeView]:
        """All views of one batch; each is a picture or carries a reason.

        A sample with non-finite latents, or whose picture has one single colour, is sampled once more from another seed.
        """
        embeddings_BD, unreadable = self._embeddings(items)
        views = self._sample(items, embeddings_BD, SEED_STREAM)
        again = [row for row, view in enumerate(views) if view.reason is not None and row not in unreadable]
        if again:
            retried = self._sample([items[row] for row in again], embeddings_BD[again], RETRY_STREAM)
            for row, view in zip(again, retried, strict=True):
                views[row] = view if view.reason is None else view._replace(reason=f"{view.reason}, also from a second seed")
        for row, reason in unreadable.items():
            views[row] = views[row]._replace(data=b"", reason=reason)
        return [
            MadeView(self.pictures.keys[item.picture], item.view_index, *view) for item, view in zip(items, views, strict=True)
        ]

    def _embeddings(self, items: Sequence[Item]) -> tuple[Tensor, dict[int, str]]:
        """Embeddings (rows, D) of the items' pictures, and the reason for each row whose picture cannot be decoded."""
        images, reasons = {}, {}
        for picture in dict.fromkeys(item.picture for item in items):
            try:
                images[picture] = self.pictures.image(picture)
            except PictureError as error:
                reasons[picture] = f"real picture: {error}"
        embeddings = torch.zeros(len(items), self.generator.encoder.embed_dim, device=self.device)
        if images:
            side = self.generator.facts.encoder_image_size
            found = embed(self.generator.encoder, squares(list(images.values()), side).to(self.device))
            places = {picture: row for row, picture in enumerate(images)}
            for row, item in enumerate(items):
                if item.picture in places:
                    embeddings[row] = found[places[item.picture]]
        return embeddings, {row: reasons[item.picture] for row, item in enumerate(items) if item.picture in reasons}

    def _sample(self, items: Sequence[Item], embeddings_BD: Tensor, stream: str) -> list[_Sample]:
        """Sample in the fixed batch shape: missing rows are filled with zeros and dropped afterwards."""
        seeds = [integer_seed(self.seed, stream, self.pictures.keys[item.picture], item.view_index) for item in items]
        generators = [torch.Generator().manual_seed(number) for number in seeds]
        side = int(self.pipeline.unet.config["sample_size"])
        shape = (self.settings.batch_size, self.pipeline.latent_channels, side, side)
        noise_BChw = torch.zeros(shape)
        for row, generator in enumerate(generators):
            noise_BChw[row] = torch.randn(shape[1:], generator=generator)
        embeddings_BD = torch.cat([embeddings_BD, embeddings_BD.new_zeros(shape[0] - len(items), embeddings_BD.shape[1])])
        generators += [torch.Generator().manual_seed(0) for _ in range(shape[0] - len(items))]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            latents_BChw = self.pipeline.sample_latents(
                embeddings_BD, noise_BChw.to(self.device), self.settings.num_inference_steps, self.settings.guidance_scale,
                self.settings.eta, generators=generators,
            )  # fmt: skip
        return self._finish(latents_BChw[: len(items)].float(), seeds)

    def _finish(self, latents_BChw: Tensor, seeds: Sequence[int]) -> list[_Sample]:
        finite_B = latents_BChw.isfinite().flatten(1).all(1).tolist()
        images_B3SS = self.pipeline.pictures(latents_BChw.nan_to_num())
        pixels_BSS3 = (images_B3SS.nan_to_num() * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        return [self._one(pixels, finite, number) for pixels, finite, number in zip(pixels_BSS3, finite_B, seeds, strict=True)]

    def _one(self, pixels_SS3: np.ndarray, finite: bool, number: int) -> _Sample:
        side = pixels_SS3.shape[0]
        if not finite:
            return _Sample(number, b"", side, "latents are not finite")
        if (pixels_SS3 == pixels_SS3[:1, :1]).all():
            return _Sample(number, b"", side, "picture is constant")
        return _Sample(number, encode_jpeg(Image.fromarray(pixels_SS3), self.settings.jpeg_quality), side, None)


class _Sample(NamedTuple):
    seed: int
    data: bytes
    side: int
    reason: str | None
