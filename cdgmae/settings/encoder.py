"""How the config names an encoder, wherever one is needed (conditioning, scoring, propagation)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cdgmae.settings.base import Name, Settings

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
            raise ValueError(f"embed_dim = {self.embed_dim} is not a multiple of num_heads = {self.num_heads}")
        if self.embed_dim % 4:
            raise ValueError(f"embed_dim = {self.embed_dim} is not a multiple of 4, which the 2-D sin-cos positions need")
        return self


class EncoderSettings(Settings):
    """Exactly one way to name an encoder; `timm` and `checkpoint` together name an architecture and its weights."""

    run: Name | None = Field(default=None, description="A run of section `pretrain`: its encoder, trained in this DAG.")
    seed: int = Field(default=0, ge=0, description="Which seed of that run; one of `pretrain.seeds`.")
    timm: str | None = Field(
        default=None,
        description="A timm model with its published weights, e.g. `vit_base_patch16_224.mae` (downloaded once by timm); "
        "with `checkpoint`, the architecture of the weights in that file.",
    )
    checkpoint: str | None = Field(
        default=None,
        description="An encoder file: `encoder.safetensors` of this package, or a CropMAE/SiamMAE/MAE/DINO/VideoMAE `.pth`.",
    )
    random_like: Name | None = Field(
        default=None, description="Random weights with the architecture of this run: the untrained floor."
    )
    pixels: int | None = Field(
        default=None, ge=1, description="Raw pixel patches of this side as features: the floor without any network."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        ways = [name for name in ("run", "timm", "checkpoint", "random_like", "pixels") if getattr(self, name) is not None]
        if len(ways) != 1 and ways != ["timm", "checkpoint"]:
            raise ValueError(
                f"name exactly one of run, timm, checkpoint, random_like, pixels; found {', '.join(ways) if ways else 'none'}"
            )
        return self
