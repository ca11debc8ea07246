"""What is written per clip besides the table: masks, joint files, overlays and strips, each only on request."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from cdgmae.propagation.benchmarks.benchmark import EvaluationSequence, Predictions
from cdgmae.propagation.output.clip_strips import draw_strip, strip_frames
from cdgmae.propagation.output.overlays import check_format, write_overlay
from cdgmae.storage.files.atomic import explain_write_errors, write_bytes


@dataclass(frozen=True, slots=True)
class ClipOutputs:
    """Files beside the table.

    Attributes:
        predictions: Folder below which masks/ and joints/ are written; None writes none.
        overlays: Folder below which overlays/ are written; None writes none.
        overlay_format: gif or mp4.
        strips: Whether a strip of every clip is kept with its rows.
    """

    predictions: Path | None = None
    overlays: Path | None = None
    overlay_format: str = "gif"
    strips: bool = False

    def __post_init__(self) -> None:
        if self.overlays is not None:
            check_format(self.overlay_format)

    def painted(self, num_images: int) -> Container[int]:
        """Images of a sequence whose predictions must be kept until its end."""
        if self.predictions is not None or self.overlays is not None:
            return range(num_images)
        return strip_frames(num_images) if self.strips else ()

    @property
    def key(self) -> list[str]:
        """What tells these outputs from others: a finished clip counts as finished only for the same ones."""
        overlays = f"{self.overlays}.{self.overlay_format}" if self.overlays else "None"
        return [str(self.predictions), overlays, *(["strips"] if self.strips else [])]

    def write(self, clip: EvaluationSequence, predictions: Predictions) -> bytes:
        """Write everything asked for of one finished clip.

        Args:
            clip: The clip.
            predictions: What it gave.

        Returns:
            Its strip; empty where none is asked for.

        Raises:
            ValueError: if masks or joints cannot be written.
        """
        if self.predictions is not None:
            with explain_write_errors(self.predictions):
                for name, data in predictions.predictions().items():
                    write_bytes(self.predictions / name, data)
        if self.overlays is not None:
            write_overlay(self.overlays / f"overlays/{clip.name}.{self.overlay_format}", predictions.images())
        return draw_strip(predictions, clip.num_painted) if self.strips else b""
