"""Section `consistency`: how pairs of views are scored (paper, section 3.2)."""

from __future__ import annotations

from pydantic import Field

from cdgmae.settings.base import Name, Ratio, Settings
from cdgmae.settings.encoder import EncoderSettings


class ConsistencySettings(Settings):
    """Section `consistency`."""

    sources: list[Name] = Field(description="View sources (section `views`) whose bags are scored.")
    encoder: EncoderSettings = Field(
        default=EncoderSettings(timm="vit_base_patch16_224.mae"), description="The scoring encoder. Paper: ViT-B/16 MAE."
    )
    image_size: int = Field(
        default=224,
        ge=8,
        description="Side in pixels to which every view is scaled (shorter side, then central square). Paper: 224.",
    )
    batch_size: int = Field(default=64, ge=1, description="Pictures per encoder pass.")
    max_bad_fraction: Ratio = Field(
        default=0.001, description="The stage fails when more than this share of the pairs cannot be scored."
    )


class ScoringSettings(Settings):
    """What one scoring job needs: the section without the list of sources."""

    image_size: int = Field(default=224, ge=8, description="Side in pixels to which every view is scaled.")
    batch_size: int = Field(default=64, ge=1, description="Pictures per encoder pass.")
    max_bad_fraction: Ratio = Field(default=0.001, description="Largest tolerated share of pairs that cannot be scored.")
