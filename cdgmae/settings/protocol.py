"""What the protocols of all kinds of evaluation sets have in common; each kind adds its own keys and the paper's defaults."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cdgmae.settings.base import Settings

InputSize = tuple[int, int] | int
"""[height, width] in pixels, or the longer side alone."""


def input_size(default: InputSize) -> Any:
    """The field `input_size` with the default of a kind."""
    return Field(
        default=default,
        description="[height, width] in pixels, or one number for the longer side (the shorter one is rounded down to a multiple of 64).",
    )


class ProtocolSettings(Settings):
    """How one evaluation set is measured; written beside every score."""

    root: str = Field(description="Folder of the set in its official layout; nothing is ever written into it.")
    input_size: InputSize = input_size((480, 880))
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="Arithmetic of the encoder. Affinities and labels stay in float32. The published protocol is fp32.",
    )

    @property
    def reads_prepared_copy(self) -> bool:
        """Whether the set is measured on a copy of `root` that the workflow makes."""
        return False

    @model_validator(mode="after")
    def _input_size_positive(self) -> Self:
        sides = self.input_size if isinstance(self.input_size, tuple) else (self.input_size,)
        if min(sides) < 8:
            raise ValueError(f"input_size = {self.input_size}: sides must be at least 8 pixels")
        return self


class ClipProtocol(ProtocolSettings):
    """How the labels of a clip's first frame travel to its later frames (paper, Table 7)."""

    top_k: int = Field(default=7, ge=1, description="Keys per query that vote. Paper: 7, for VIP 10.")
    queue_length: int = Field(default=20, ge=1, description="Frames in the memory queue besides frame 0. Paper: 20.")
    radius: float = Field(default=20.0, gt=0, description="Neighbourhood radius in patches, strict; of the queue. Paper: 20.")
    temperature: float = Field(default=0.7, gt=0, description="Softmax temperature over the top-k affinities. CropMAE: 0.7.")
    restrict_first_frame: bool = Field(
        default=False, description="Whether the radius applies to frame 0 too; the published protocol exempts it."
    )
    restart_every: int = Field(
        default=0,
        ge=0,
        description="Frames after which the queue is forgotten and labels come from frame 0 alone again; 1: every frame straight from "
        "frame 0; 0: never, as published.",
    )
