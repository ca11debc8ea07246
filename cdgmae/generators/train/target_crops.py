"""Training targets that are random crops of what the condition sees: place and scale become the generator's to choose."""

from __future__ import annotations

from PIL import Image

from cdgmae.models.normalisation import square
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.views import GeneratorTrainingSettings

STREAM = "views/target_crops"


def target_images(image: Image.Image, settings: GeneratorTrainingSettings, seed: int, key: str) -> list[Image.Image]:
    """What a generator learns to draw from the embedding of an image, at its size: the central square, or `target_crops` crops of it.

    The side of a crop is uniform between `target_crop_side` and 1 of the square's, its place uniform within the square: a shift and a zoom.
    Crop i is a function of (seed, key, i).
    """
    if not settings.target_crops:
        return [square(image, settings.image_size)]
    whole = min(image.size)
    left, top = (image.width - whole) / 2, (image.height - whole) / 2
    crops = []
    for number in range(settings.target_crops):
        generator = numpy_generator(seed, STREAM, key, number)
        side = whole * generator.uniform(settings.target_crop_side, 1)
        x, y = (start + generator.uniform(0, whole - side) for start in (left, top))
        size = (settings.image_size, settings.image_size)
        crops.append(image.resize(size, Image.Resampling.BICUBIC, box=(x, y, x + side, y + side)))
    return crops
