"""The colour photographs that come inside scikit-image and scikit-learn; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image


def load_photographs() -> dict[str, Image.Image]:
    """All photographs as RGB images, by name, always in the same order.

    Raises:
        ValueError: if an installed package lacks one of them.
    """
    try:
        return {name: Image.fromarray(np.ascontiguousarray(load()[..., :3])) for name, load in _loaders().items()}
    except (ImportError, OSError, KeyError) as error:
        raise ValueError(
            f"the demo's photographs cannot be read: {error}. Install the packages again: pip install --force-reinstall scikit-image scikit-learn"
        ) from None


def _loaders() -> dict[str, Callable[[], Any]]:
    from skimage import data
    from sklearn.datasets import load_sample_image

    return {
        "astronaut": data.astronaut,
        "chelsea": data.chelsea,
        "coffee": data.coffee,
        "rocket": data.rocket,
        "motorcycle_left": lambda: data.stereo_motorcycle()[0],
        "motorcycle_right": lambda: data.stereo_motorcycle()[1],
        "tissue": data.immunohistochemistry,
        "galaxies": data.hubble_deep_field,
        "retina": data.retina,
        "china": lambda: load_sample_image("china.jpg"),
        "flower": lambda: load_sample_image("flower.jpg"),
    }


CLIP_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "motorcycle_left", "tissue", "china", "flower")
"""Photographs with enough structure for the objects and backgrounds of clips."""


def synset(position: int) -> str:
    """The made-up class folder of the photograph at this position, in ImageNet's form; no real synset starts with n9."""
    return f"n9{position + 1:07d}"
