"""Section `demo`: the embedded demo data, drawn from photographs inside installed packages."""

from __future__ import annotations

from pydantic import Field

from cdgmae.settings.base import Settings


class DemoSettings(Settings):
    """Section `demo`; leave it out to work on your own data."""

    directory: str = Field(default="data/demo", description="Folder the demo data is drawn into.")
    num_tiles: int = Field(default=240, ge=4, le=5000, description="Overlapping tiles cut from the photographs.")
    tile_size: int = Field(default=160, ge=32, le=512, description="Side of a tile in pixels.")
    clips_per_set: int = Field(default=3, ge=1, le=50, description="Clips drawn per layout (DAVIS, VIP, JHMDB).")
    frames_per_clip: int = Field(default=14, ge=3, le=200, description="Frames per clip.")
