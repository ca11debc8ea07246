"""How an encoder is named, wherever one is needed (conditioning, scoring, propagation), and the one short text form of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import parse_qsl

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from cdgmae.settings.base import Name, Settings
from cdgmae.settings.reading.messages import describe_problems
from cdgmae.settings.reading.plain_values import read_json

ARCHITECTURES: dict[str, dict[str, int]] = {
    "vits16": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "vits8": {"patch_size": 8, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "vitb16": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "vitl16": {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16},
}
"""Encoders by name (spec cross_view_mae 1.1); the keys are those of `VitSettings` and of `CrossViewMAE`."""


class VitSettings(Settings):
    """Dimensions of a plain Vision Transformer encoder; the defaults are ViT-S/16 at 224 pixels."""

    image_size: int = Field(default=224, ge=8, description="Side of the square training image in pixels. Paper: 224.")
    patch_size: int = Field(default=16, ge=1, description="Side of a patch in pixels. Paper: 16, and 8 in Figure 4.")
    embed_dim: int = Field(default=384, ge=8, description="Token width. Paper (ViT-S): 384.")
    depth: int = Field(default=12, ge=1, description="Number of transformer blocks. Paper (ViT-S): 12.")
    num_heads: int = Field(default=6, ge=1, description="Attention heads per block. Paper (ViT-S): 6.")

    @model_validator(mode="after")
    def _dimensions_fit(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size = {self.image_size} is not a multiple of patch_size = {self.patch_size}; "
                f"use {self.image_size // self.patch_size * self.patch_size or self.patch_size} or change patch_size"
            )
        if self.embed_dim % self.num_heads:
            fits = self.embed_dim // self.num_heads * self.num_heads or self.num_heads
            raise ValueError(
                f"embed_dim = {self.embed_dim} is not a multiple of num_heads = {self.num_heads}; use {fits} or change num_heads"
            )
        if self.embed_dim % 4:
            raise ValueError(
                f"embed_dim = {self.embed_dim} is not a multiple of 4, which the 2-D sin-cos positions need; use {self.embed_dim // 4 * 4}"
            )
        return self


PATCH_IN_NAME = re.compile(r"^(?:hf[-_]hub:timm/)?vit_.*_patch(\d+)_")
"""Of timm's Vision Transformers, e.g. `vit_small_patch16_224`."""

WAYS = ("run", "timm", "checkpoint", "random_like", "random", "pixels")
"""The fields of `EncoderSettings` that name an encoder."""

HINTS = ("key", "prefix", "num_heads")
"""The fields that say what a checkpoint file does not."""

CHECKPOINT_ENDINGS = (".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin", ".json")
"""A text that ends so is meant as a file, whether it is there or not."""

LOCAL_PREFIX = "local-dir:"
EXPORTED_FILES = ("config.json", "model.safetensors")
"""What timm reads of a folder behind `LOCAL_PREFIX`."""

HUB_PREFIXES = ("hf-hub:", "hf_hub:", LOCAL_PREFIX)
"""How timm names models of the hub and exported folders; slashes in them are not those of a file."""


class EncoderSettings(Settings):
    """Exactly one way to name an encoder; `timm` and `checkpoint` together name an architecture and its weights.

    Dumped, it holds only what was given. `run` and `random_like` are names of a configuration, which the workflow turns into a file and
    into dimensions before any command sees them.
    """

    example: ClassVar[str] = "{timm: NAME}, {checkpoint: FILE} or {run: NAME}"

    run: Name | None = Field(default=None, description="A run of section `pretrain`: its encoder, trained in this DAG.")
    seed: int = Field(default=0, ge=0, description="Which seed of that run; one of `pretrain.seeds`.")
    timm: str | None = Field(
        default=None,
        description="A timm model with its published weights, e.g. `vit_base_patch16_224.mae` (downloaded once by timm), "
        "`hf-hub:OWNER/NAME`, or `local-dir:FOLDER` as `cdgmae export hub` writes it; with `checkpoint`, the architecture of the weights "
        "in that file.",
    )
    checkpoint: str | None = Field(
        default=None,
        description="An encoder file: `encoder.safetensors` of this package, or a CropMAE/SiamMAE/MAE/DINO/VideoMAE `.pth`.",
    )
    key: str | None = Field(
        default=None,
        description="Where the weights lie in the checkpoint, e.g. `model_ema` or `student` (levels joined by /); left out: averaged weights "
        "before raw ones, and the log says which.",
    )
    prefix: str | None = Field(
        default=None, description="What the keys of the encoder in the checkpoint begin with, e.g. `module.momentum_encoder.`."
    )
    num_heads: int | None = Field(
        default=None,
        ge=1,
        description="Attention heads of the checkpoint's network, which no tensor shows: MoCo-v3's ViT-S has 12, others 6.",
    )
    random_like: Name | None = Field(
        default=None, description="Random weights with the architecture of this run: the untrained floor."
    )
    random: VitSettings | str | None = Field(
        default=None, description="Random weights with these dimensions, or of this timm architecture."
    )
    pixels: int | None = Field(
        default=None, ge=1, description="Raw pixel patches of this side as features: the floor without any network."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        ways = [name for name in WAYS if getattr(self, name) is not None]
        if len(ways) != 1 and ways != ["timm", "checkpoint"]:
            raise ValueError(f"name exactly one of {', '.join(WAYS)}; found {', '.join(ways) if ways else 'none'}")
        said = [name for name in HINTS if getattr(self, name) is not None]
        if said and self.checkpoint is None:
            raise ValueError(f"{', '.join(said)} say what lies in a checkpoint file; give checkpoint too, or leave them out")
        if self.num_heads is not None and self.timm is not None:
            raise ValueError("num_heads does not go with timm, whose architecture has its own; leave out one of them")
        return self

    @model_serializer(mode="wrap")
    def _what_was_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value for name, value in dump(self).items() if value is not None and (name != "seed" or self.run is not None)
        }

    @property
    def local_folder(self) -> str | None:
        """The folder behind timm's `local-dir:FOLDER`."""
        return self.timm.removeprefix(LOCAL_PREFIX) if self.timm is not None and self.timm.startswith(LOCAL_PREFIX) else None

    @property
    def kind(self) -> Literal["trained", "random", "pixels"]:
        """What stands behind the features: trained weights, random ones, or no network."""
        return "pixels" if self.pixels is not None else "random" if (self.random or self.random_like) is not None else "trained"

    @property
    def named_patch_size(self) -> int | None:
        """The side of a patch in pixels, where the settings alone say it, as timm's names do."""
        if isinstance(self.random, VitSettings):
            return self.random.patch_size
        match = PATCH_IN_NAME.search(self.timm or self.random or "")
        return int(match[1]) if match else self.pixels

    @property
    def text(self) -> str:
        """The short form, for people: in tables, messages and provenance."""
        if self.pixels is not None:
            return f"pixels:{self.pixels}"
        if self.random is not None:
            return f"random:{self.random if isinstance(self.random, str) else self.random.canonical_json()}"
        if self.checkpoint is not None:
            return f"{self.timm}@{self.checkpoint}" if self.timm is not None else self.checkpoint
        return self.timm or self.canonical_json()


def parse_encoder(text: str) -> EncoderSettings:
    """An encoder as it is given on the command line: `EncoderSettings` as JSON, or one of the short forms.

    - a file: `encoder.safetensors` of this package, or a published `.pth`; behind a question mark what it does not say:
      `FILE?key=model_ema&prefix=module.&num_heads=12`,
    - a timm name, with timm's weights (MAE, DINO, DINOv2, DINOv3, ...); also `hf-hub:OWNER/NAME` and `local-dir:FOLDER`,
    - `NAME@FILE`: timm's architecture with the weights of a file, and hints as above,
    - `random:NAME` or `random:{...}`: fixed random weights of a timm architecture or of `VitSettings`,
    - `pixels:P`: raw pixels of patches of side P.

    Raises:
        ValueError: if the JSON is none, or names no encoder, or what follows a colon or question mark does not fit.
    """
    kind, _, rest = text.partition(":")
    architecture, at, weights = text.partition("@")
    try:
        if text.startswith("{"):
            return EncoderSettings.from_plain(read_json(text, "encoder"))
        if kind == "pixels" and rest.isdecimal():
            return EncoderSettings.from_plain({"pixels": int(rest)})
        if kind == "pixels":
            raise ValueError(f"encoder {text!r}: behind the colon stands the side of a patch in pixels, e.g. pixels:16")
        if kind == "random" and not rest:
            raise ValueError(f"encoder {text!r}: behind the colon stands a timm name, e.g. random:vit_small_patch16_224")
        if kind == "random":
            return EncoderSettings.from_plain({"random": read_json(rest, "encoder") if rest.startswith("{") else rest})
        file, question, hints = text.partition("?")
        if question and not Path(text).exists():
            said: dict[str, Any] = dict(parse_qsl(hints, keep_blank_values=True))
            if said.get("num_heads", "").isdecimal():
                said["num_heads"] = int(said["num_heads"])
            if not said or not said.keys() <= set(HINTS):
                raise ValueError(f"encoder {text!r}: behind ? stands KEY=VALUE, joined by &, of {', '.join(HINTS)}")
            return EncoderSettings.from_plain({**parse_encoder(file).model_dump(mode="json"), **said})
    except ValidationError as error:
        raise ValueError(f"encoder {text!r}: " + "; ".join(describe_problems(error, EncoderSettings))) from None
    if Path(text).is_file():
        return EncoderSettings(checkpoint=text)
    if at and architecture and Path(weights).is_file():
        return EncoderSettings(timm=architecture, checkpoint=weights)
    is_file = not text.startswith(HUB_PREFIXES) and (text.endswith(CHECKPOINT_ENDINGS) or "/" in text)
    return EncoderSettings(checkpoint=text) if is_file else EncoderSettings(timm=text)
