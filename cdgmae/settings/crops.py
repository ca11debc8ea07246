"""How two crops of one image are drawn (CropMAE): for the pretext task, and for scoring the pairs that it makes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cdgmae.settings.base import Settings

Fraction = tuple[float, float]
ShownRegion = Literal["whole_image", "central_square"]
"""What part of a bag's real image its views show."""


class CropPairSettings(Settings):
    """Two crops of one image; the defaults are CropMAE's."""

    crop_ratio: Fraction = Field(
        default=(0.75, 4 / 3), description="Aspect ratio range of the random crops. Paper: 0.75 to 1.33."
    )
    crop_strategy: Literal["global_to_local", "local_to_global", "random_views", "same_views"] = Field(
        default="global_to_local",
        description="CropMAE's strategies (`crops`): which crop is the anchor (first word) and which the target.",
    )
    global_crop_scale: Fraction = Field(
        default=(0.1, 1.0), description="Area share of the global crop (`crops`). CropMAE: 0.1 to 1."
    )
    local_crop_scale: Fraction = Field(
        default=(0.3, 0.6), description="Area share of the local crop within the global one. CropMAE: 0.3 to 0.6."
    )

    @model_validator(mode="after")
    def _ranges_fit(self) -> Self:
        for key in ("crop_ratio", "global_crop_scale", "local_crop_scale"):
            check_range(key, getattr(self, key), shares=key != "crop_ratio")
        return self


def check_range(key: str, limits: Fraction, *, shares: bool) -> None:
    """Refuse a range that is empty, not positive, or (shares) beyond the whole.

    Raises:
        ValueError: naming the key and what is allowed.
    """
    low, high = limits
    if not 0 < low <= high or (shares and high > 1):
        raise ValueError(f"{key} = [{low}, {high}] is no range of {'shares in (0, 1]' if shares else 'positive numbers'}")
