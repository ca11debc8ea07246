"""What is written per clip besides the table: masks, joint files and overlays, each only on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cdgmae.propagation.clips import Clip
from cdgmae.propagation.overlays import check_format, write_overlay
from cdgmae.propagation.scorers import Scorer
from cdgmae.storage.atomic import explain_write_errors, write_bytes


@dataclass(frozen=True, slots=True)
class ClipOutputs:
    """Files beside the table.

    Attributes:
        predictions: Folder below which masks/ and joints/ are written; None writes none.
        overlays: Folder below which overlays/ are written; None writes none.
        overlay_format: gif or mp4.
    """

    predictions: Path | None = None
    overlays: Path | None = None
    overlay_format: str = "gif"

    def __post_init__(self) -> None:
        if self.overlays is not None:
            check_format(self.overlay_format)

    @property
    def wanted(self) -> bool:
        """Whether predictions must be kept until the end of a clip."""
        return self.predictions is not None or self.overlays is not None

    @property
    def key(self) -> list[str]:
        """What tells these outputs from others: a finished clip counts as finished only for the same ones."""
        return [str(self.predictions), f"{self.overlays}.{self.overlay_format}" if self.overlays else "None"]

    def write(self, clip: Clip, scorer: Scorer) -> None:
        """Write everything asked for of one finished clip.

        Raises:
            ValueError: if masks or joints cannot be written.
        """
        if self.predictions is not None:
            with explain_write_errors(self.predictions):
                for name, data in scorer.predictions().items():
                    write_bytes(self.predictions / name, data)
        if self.overlays is not None:
            write_overlay(self.overlays / f"overlays/{clip.name}.{self.overlay_format}", scorer.pictures())
