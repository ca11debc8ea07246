"""Section `shards`: which images exist and how they are packed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cdgmae.settings.base import Name, Ratio, Settings

Resize = Literal["none", "shorter_side", "center_crop"]
"""What happens to an image on its way into a shard."""


class DatasetSettings(Settings):
    """One image data set and how it is cut into shards."""

    path: str = Field(
        description="Folder of the images (layout `images`), of the tar files (`class_tars`, `webdataset`) or of the clips (`clips`)."
    )
    layout: Literal["images", "class_tars", "webdataset", "clips"] = Field(
        default="images",
        description="`images`: a tree of image files of any depth, the parent folder is the class. `class_tars`: ILSVRC's "
        "one tar per class, `n01440764.tar`. `webdataset`: existing WebDataset tars (`{key}.jpg`, optional `{key}.cls`). `clips`: video "
        "files and folders of frames at any depth; each clip gives one image, a frame drawn at random, and view source kind "
        "`video` adds later frames of it.",
    )
    image_extension: str | None = Field(
        default=None,
        description="Layout `webdataset`: which member of a sample is its image, e.g. `jpg` or `rgb.png`; left out: the plainest one (`x.jpg` "
        "before `x.seg.png`). Other images of a sample are left out and listed.",
    )
    frames_after: int = Field(
        default=48,
        ge=0,
        description="Layout `clips`: the drawn frame leaves at least this many frames after it, or is the first one in shorter clips.",
    )
    num_shards: int = Field(
        default=128,
        ge=1,
        le=100_000,
        description="Number of shards; known before the run so that the DAG is. One job makes one shard. ImageNet: 128 of 10,000 images.",
    )
    assignment: Literal["shuffle", "hash"] = Field(
        default="shuffle",
        description="Which shard an image goes to. `shuffle`: at random, all shards of equal size; one image more or less moves all others. `hash`: "
        "by its key alone, so that images which come or go change only their own shards, and the views and scores of the others are put "
        "back from work/finished/; sizes vary by some percent. For data sets that grow.",
    )
    resize: Resize = Field(
        default="none",
        description="`none` keeps the bytes as they are; `shorter_side` scales the shorter side to `image_size` and keeps the "
        "aspect ratio; `center_crop` scales likewise and crops the central square.",
    )
    image_size: int = Field(
        default=256, ge=8, le=4096, description="Pixels; used by `shorter_side` and `center_crop`. Smaller images are enlarged."
    )
    jpeg_quality: int = Field(
        default=95, ge=1, le=100, description="JPEG quality of re-encoded images (no chroma subsampling above 90)."
    )
    max_bad_fraction: Ratio = Field(
        default=0.001, description="The stage fails when more than this share of the data set's images cannot be read (0..1)."
    )
    notice: Literal["mtime", "hash", "nothing"] = Field(
        default="mtime",
        description="How a plan notices that images were added, removed or replaced: by size and time of change of every file (`mtime`, a "
        "few seconds per million files), by their content (`hash`, which reads them all), or not at all (`nothing`).",
    )
    max_pixels: int = Field(
        default=89_478_485,
        ge=1,
        description="Images of more pixels are refused unread, as decompression bombs. ImageNet's largest has 42 million.",
    )


class ShardsSettings(Settings):
    """Section `shards`."""

    datasets: dict[Name, DatasetSettings] = Field(default={}, description="Image data sets by name.")
