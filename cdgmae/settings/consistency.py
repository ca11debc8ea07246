"""Section `consistency`: how pairs of views are scored (paper, section 3.2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cdgmae.settings.base import EachOnce, Name, Ratio, Settings
from cdgmae.settings.crops import CropPairSettings
from cdgmae.settings.encoder import EncoderSettings


class _CommonSettings(Settings):
    """What the section and a single scoring job share."""

    image_size: int = Field(
        default=224,
        ge=8,
        description="Side in pixels to which every view is scaled (shorter side, then central square). Paper: 224.",
    )
    features: Literal["final_norm", "last_block"] = Field(
        default="final_norm",
        description="Tokens that are compared: after the encoder's final norm, or the last block's output before it. Paper: what a "
        "ViT-B/16 MAE gives, whose forward pass ends with the norm.",
    )
    pairs: Literal["real_vs_view", "all"] = Field(
        default="real_vs_view",
        description="`real_vs_view`: the real image with each of its views. `all`: also every two views of a bag with each other.",
    )
    batch_size: int = Field(default=64, ge=1, description="Images per encoder pass.")
    nearest_bags: int = Field(
        default=0,
        ge=0,
        description="Bags per shard, spread evenly over the NPS ranking, for whose pairs the number of each patch's nearest patch and the similarity "
        "to it are stored (columns `nearest_patches`, `nearest_similarities`): what the report's consistency explorer lights up.",
    )
    max_bad_fraction: Ratio = Field(
        default=0.001, description="The stage fails when more than this share of the pairs cannot be scored."
    )


class ConsistencySettings(_CommonSettings):
    """Section `consistency`."""

    sources: Annotated[list[Name], EachOnce] = Field(
        default=[], description="View sources (section `views`) whose bags are scored."
    )
    encoder: EncoderSettings = Field(
        default=EncoderSettings(timm="vit_base_patch16_224.mae"), description="The scoring encoder. Paper: ViT-B/16 MAE."
    )
    crop_run: Name | None = Field(
        default=None,
        description="Run of section `pretrain` with pretext crops whose crops stand for sources of kind `crops`; CropMAE's if left out.",
    )
    crop_pairs: int = Field(default=1, ge=1, description="Crop pairs drawn of each image of a source of kind `crops`.")


class SummarySettings(Settings):
    """What is summarised."""

    num_shards: dict[Name, int] = Field(
        default={}, description="Scored view source -> number of its score tables, which are named like shards."
    )


class CropDrawSettings(CropPairSettings):
    """The crop pairs that stand for the bags of a source of kind `crops`."""

    num_pairs: int = Field(default=1, ge=1, description="Crop pairs drawn of each image.")
    seed: int = Field(default=0, ge=0, description="Root of the draws.")


class ScoringSettings(_CommonSettings):
    """What one scoring job needs: the section without sources and encoder, with the crops of a source that has no view files."""

    crops: CropDrawSettings | None = Field(default=None, description="Score crop pairs of the real images instead of views.")
