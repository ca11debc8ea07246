"""Section `propagation`: training-free video label propagation (paper, Table 7)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cdgmae.settings.base import Name, Settings
from cdgmae.settings.encoder import EncoderSettings


class ProtocolSettings(Settings):
    """The protocol of one clip set; written beside every score. Defaults: DAVIS-2017 in the paper."""

    root: str = Field(description="Folder of the clip set in its official layout; nothing is ever written into it.")
    resolution: Literal["480p", "Full-Resolution"] | None = Field(
        default=None,
        description="DAVIS only: which images and annotations are used; J and F are measured at their size. null: 480p.",
    )
    input_size: tuple[int, int] | int = Field(
        default=(480, 880),
        description="[height, width] in pixels, or one number for the longer side (the shorter one is rounded down to a multiple of 64, VIP).",
    )
    top_k: int = Field(default=7, ge=1, description="Keys per query that vote. Paper: 7 (DAVIS, JHMDB), 10 (VIP).")
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
    scored_size: Literal["annotation", "input"] = Field(
        default="annotation",
        description="DAVIS: J and F at the size of the annotations, or with the annotations scaled to the encoder's input (480x880).",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="Arithmetic of the encoder. Affinities and labels stay in float32. The published protocol is fp32.",
    )

    @model_validator(mode="after")
    def _input_size_positive(self) -> Self:
        sides = self.input_size if isinstance(self.input_size, tuple) else (self.input_size,)
        if min(sides) < 8:
            raise ValueError(f"input_size = {self.input_size}: sides must be at least 8 pixels")
        return self


class PropagationDatasets(Settings):
    """The clip sets to evaluate on; leave one out to skip it."""

    davis: ProtocolSettings | None = Field(default=None, description="DAVIS-2017: objects, J and F.")
    vip: ProtocolSettings | None = Field(default=None, description="VIP: body parts, mIoU.")
    jhmdb: ProtocolSettings | None = Field(default=None, description="JHMDB: 15 joints, PCK.")


class PropagationSettings(Settings):
    """Section `propagation`."""

    datasets: PropagationDatasets = Field(description="Clip sets and their protocols.")
    encoders: dict[Name, EncoderSettings] = Field(min_length=1, description="Encoders to judge, by name.")

    @property
    def protocols(self) -> dict[str, ProtocolSettings]:
        """Clip set name -> protocol, only those configured."""
        named = {"davis": self.datasets.davis, "vip": self.datasets.vip, "jhmdb": self.datasets.jhmdb}
        return {name: protocol for name, protocol in named.items() if protocol is not None}
