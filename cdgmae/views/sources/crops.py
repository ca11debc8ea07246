"""View source `crops`: the real image alone; the pretext task crops it (CropMAE). No files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cdgmae.views.sources.view_source import ViewSource


class CropsSource(ViewSource):
    """The real image alone; the pretext task crops it (CropMAE)."""

    kind: Literal["crops"] = Field(description="`crops`: the real image alone. No files; the pretext crops it.")

    @property
    def num_views(self) -> int:
        """No other view."""
        return 0
