"""Section `report`: what people see at the end."""

from __future__ import annotations

from pydantic import Field

from cdgmae.settings.base import Settings


class ReportSettings(Settings):
    """Section `report`."""

    title: str = Field(default="CDG-MAE", description="Heading of the report.")
    num_bags: int = Field(default=8, ge=1, le=64, description="Bags of views shown per source: evenly spaced in NPS rank.")
    thumbnail_size: int = Field(default=128, ge=16, le=512, description="Longer side of the pictures in the report, pixels.")
