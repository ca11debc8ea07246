"""Section `views`: generators (S-LDM) and how views are drawn from them; `cdgmae.views.sources` has the view sources."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cdgmae.settings.base import Name, Ratio, Settings
from cdgmae.settings.encoder import EncoderSettings


class AutoencoderSettings(Settings):
    """The first stage of a generator trained here: pixels <-> latents."""

    kind: Literal["patch_pca", "folder", "none"] = Field(
        default="patch_pca",
        description="`patch_pca`: orthonormal principal components of non-overlapping patches, fitted in closed form; `folder`: a learned "
        "first stage (VQ-f4, KL); `none`: diffusion on pixels. LDM-4: a VQ-f4 stage.",
    )
    path: str | None = Field(
        default=None,
        description="Folder of a diffusers VQModel or AutoencoderKL with safetensors weights (`folder`), e.g. `autoencoder/` of an imported "
        "generator. It is frozen; a KL stage's mean is used.",
    )
    patch_size: int = Field(default=4, ge=1, le=16, description="Side of a latent cell in pixels (`patch_pca`).")
    latent_channels: int = Field(default=12, ge=1, description="Principal components kept of the 3 * patch_size^2 (`patch_pca`).")

    @model_validator(mode="after")
    def _path_fits(self) -> Self:
        if (self.kind == "folder") != (self.path is not None):
            raise ValueError("kind folder needs `path`, the folder of a diffusers autoencoder; other kinds have none")
        return self

    @model_validator(mode="after")
    def _channels_fit(self) -> Self:
        if self.kind == "patch_pca" and self.latent_channels > 3 * self.patch_size**2:
            raise ValueError(
                f"latent_channels = {self.latent_channels} exceeds the {3 * self.patch_size**2} values of a "
                f"{self.patch_size}x{self.patch_size} patch"
            )
        return self


class UNetSettings(Settings):
    """Size of the denoising U-Net (diffusers UNet2DConditionModel). The defaults are LDM-4's, 401 M parameters."""

    block_out_channels: list[int] = Field(
        default=[192, 384, 576, 960], min_length=1, description="Channels per resolution level."
    )
    attention_levels: list[int] = Field(
        default=[1, 2, 3], description="Levels (0 = finest) with self-attention and cross-attention to the condition."
    )
    layers_per_block: int = Field(default=2, ge=1, description="Residual layers per level.")
    num_heads: int = Field(default=1, ge=1, description="Attention heads. LDM-4: 1.")
    cross_attention_dim: int = Field(default=512, ge=4, description="Width of the condition token. LDM-4: 512.")
    time_embedding: Literal["shift", "scale_shift"] = Field(
        default="shift",
        description="How the noise level enters a residual layer: it shifts the channels, or scales and shifts them. LDM-4: shift.",
    )
    condition_in_time: bool = Field(
        default=False,
        description="Add the projected condition token to the noise level's embedding too, so that every residual layer sees it and not "
        "only the attention layers; a short training then learns the condition faster. LDM-4: no.",
    )

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        wrong = [level for level in self.attention_levels if not 0 <= level < len(self.block_out_channels)]
        if wrong:
            raise ValueError(
                f"attention_levels {wrong} do not exist; block_out_channels has levels 0..{len(self.block_out_channels) - 1}"
            )
        if not self.attention_levels:
            raise ValueError("attention_levels is empty: without cross-attention the U-Net cannot see the condition")
        return self


class MonitoringSettings(Settings):
    """What is looked at while a generator trains; only `held_out_fraction` changes what it learns."""

    held_out_fraction: Ratio = Field(
        default=0.01, description="Share of the images that is not trained on; the loss on them is measured. 0 measures none."
    )
    interval_steps: int = Field(
        default=5000,
        ge=1,
        description="Steps between two looks at the current weights; a last one looks at their moving average.",
    )
    num_images: int = Field(default=4, ge=0, le=64, description="Rows of a sample grid, one real image each; 0 draws no grids.")
    num_views: int = Field(default=4, ge=1, le=64, description="Samples of each real image in a grid.")
    num_inference_steps: int = Field(default=50, ge=1, le=1000, description="DDIM steps of a grid.")
    guidance_scale: float = Field(default=2.0, ge=0.0, description="Guidance scale of a grid.")


class ImportSettings(Settings):
    """What a generator's original checkpoint does not say about itself."""

    encoder: EncoderSettings | None = Field(
        default=None, description="Conditioning encoder; left out: the one inside the checkpoint, if there is one."
    )
    encoder_image_size: int | None = Field(
        default=None,
        ge=8,
        description="Side in pixels at which the encoder is given an image; left out: 224, and of RCG, whose encoder scales images itself, "
        "as large as its views.",
    )
    null_condition: Literal["zero_input", "zero_token"] | None = Field(
        default=None, description="What stands for `no condition`; left out: what this kind of generator was trained with."
    )
    normalisation: Literal["l2", "standardise", "none"] | None = Field(
        default=None, description="What is done to an embedding first; left out: what the checkpoint's configuration says."
    )
    magnification: int = Field(default=0, ge=0, description="ZoomLDM's level; 0 is the finest.")
    ignore: tuple[str, ...] = Field(default=(), description="Prefixes of keys of the checkpoint that may be left out.")


class GeneratorTrainingSettings(Settings):
    """Training of an S-LDM from the shards of this DAG (Gen-SIS's recipe)."""

    dataset: Name = Field(description="Data set of section `shards` to train on.")
    encoder: EncoderSettings = Field(description="Frozen conditioning encoder; its final-norm CLS token is the condition.")
    encoder_image_size: int = Field(
        default=224, ge=8, description="Side in pixels at which the conditioning encoder sees an image."
    )
    image_size: int = Field(default=256, ge=8, description="Side of the generated views in pixels. Paper: 256.")
    autoencoder: AutoencoderSettings = Field(default=AutoencoderSettings(), description="First stage.")
    unet: UNetSettings = Field(default=UNetSettings(), description="Denoiser.")
    start_from: str | None = Field(
        default=None,
        description="Folder of a generator to train on: its denoiser, condition projector and first stage are the first weights, and its sizes "
        "must be the ones given here. Its conditioning encoder is not read. Left out: random weights.",
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = Field(
        default="epsilon",
        description="Training target of the denoiser: the noise, the velocity, or the latents themselves. Gen-SIS's siblings: epsilon. "
        "`sample` suits short trainings: the denoiser need not carry the noise through, and errs towards blur instead of noise.",
    )
    null_condition: Literal["zero_input", "zero_token", "learned"] = Field(
        default="zero_input",
        description="What stands for `no condition`. `zero_input`: the raw embedding is replaced by the zero vector, which leaves the "
        "projector's bias as token (Gen-SIS's siblings). `zero_token`: a zero token. `learned`: a token of its own.",
    )
    condition_normalisation: Literal["l2", "standardise", "none"] = Field(
        default="l2",
        description="What is done to a raw embedding first. `l2`: unit length (siblings). `standardise`: each embedding less its own mean, "
        "over its own standard deviation (RCG). `none`: nothing.",
    )
    whiten_condition: bool = Field(
        default=False,
        description="Start the projector from the principal components of the training embeddings instead of random weights: a small "
        "generator then sees its condition from the first step, even if the embeddings differ little. Siblings: random weights.",
    )
    spread_weighting: float = Field(
        default=0.0,
        ge=0.0,
        le=2.0,
        description="Power of a latent component's standard deviation in pixels that weighs its squared error (`patch_pca`). 0 weighs all "
        "components alike; 2 is the squared error in pixels, which draws a small denoiser's attention to what is seen.",
    )
    embedding_dropout: Ratio = Field(
        default=0.1, description="Share of training samples whose embedding is replaced by zero, which makes guidance possible."
    )
    horizontal_flip: bool = Field(default=True, description="Mirror half of the images, together with their embedding's image.")
    target_crops: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Random crops of what the condition sees that stand for each image as training target, with the condition of the whole: "
        "place and scale then vary between views, where a small or short training would learn every image by heart. The latents take as many "
        "times the room. 0: the whole image, as the paper's generator.",
    )
    target_crop_side: float = Field(
        default=0.7,
        gt=0.0,
        le=1.0,
        description="Smallest side of such a crop, as share of the whole; sides are drawn uniformly up to 1.",
    )
    cache_precision: Literal["fp32", "fp16"] = Field(
        default="fp32",
        description="Precision of the latents that are computed once and kept under work/ during training. ImageNet at LDM-4, mirrored: 126 "
        "GB in fp32, 63 GB in fp16.",
    )
    monitoring: MonitoringSettings | None = Field(
        default=None, description="Held-out loss and sample grids at intervals; left out: neither."
    )
    num_steps: int = Field(default=100_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(default=256, ge=1, description="Images per optimiser step, over all devices.")
    learning_rate: float = Field(default=1e-4, gt=0, description="AdamW's learning rate after warm-up.")
    warmup_steps: int = Field(default=1000, ge=0, description="Linear warm-up in steps.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Learning rate after warm-up. Siblings: constant. `cosine` (to 0) suits short runs."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay.")
    ema_decay: Ratio = Field(
        default=0.9999, description="Decay of the exponential moving average that is saved and sampled from."
    )
    weights_precision: Literal["fp32", "fp16"] = Field(
        default="fp32",
        description="Precision in which denoiser and projector are saved; they are read as fp32. fp16: half the space, weights rounded to 11 bits.",
    )

    @model_validator(mode="after")
    def _starts_in_one_way(self) -> Self:
        if self.start_from is not None and self.whiten_condition:
            raise ValueError(
                "whiten_condition replaces the projector that start_from brings; set it to false, or leave start_from out"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.spread_weighting and self.autoencoder.kind != "patch_pca":
            raise ValueError(
                f"spread_weighting = {self.spread_weighting} needs autoencoder kind patch_pca; channels of other kinds weigh alike, "
                "set it to 0"
            )
        if self.autoencoder.kind == "folder":
            return self  # its sizes are known once it is loaded
        cell = self.autoencoder.patch_size if self.autoencoder.kind == "patch_pca" else 1
        factor = cell * 2 ** (len(self.unet.block_out_channels) - 1)
        if self.image_size % factor:
            raise ValueError(
                f"image_size = {self.image_size} is not a multiple of {factor} (latent cell {cell} x U-Net downsampling {factor // cell})"
            )
        return self


class GeneratorSettings(Settings):
    """A generator: either trained in the DAG or an existing folder."""

    path: str | None = Field(
        default=None, description="An existing generator folder (diffusers layout, written by this package's `save_pretrained`)."
    )
    train: GeneratorTrainingSettings | None = Field(default=None, description="Train the generator in this DAG.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.path is None) == (self.train is None):
            raise ValueError("give either `path` (an existing generator folder) or `train` (train it in this DAG)")
        return self


class DrawingSettings(Settings):
    """What every source that draws views needs: how many, in which batches, and how they are stored."""

    num_views: int = Field(default=4, ge=1, le=64, description="Generated views per real image, M. Paper: 4.")
    batch_size: int = Field(
        default=32,
        ge=1,
        description="Views sampled together: a fixed batch shape, filled across images. Views of other batch sizes differ by rounding "
        "only, so changing it reruns nothing.",
    )
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="JPEG quality of the stored views.")
    max_bad_fraction: Ratio = Field(default=0.001, description="The stage fails when more than this share of the views is bad.")


class SamplingSettings(DrawingSettings):
    """How views are drawn from a generator (S-LDM)."""

    scheduler: Literal["ddim", "dpm_solver", "unipc"] = Field(
        default="ddim",
        description="Sampler. Paper: DDIM. `dpm_solver`: DPM-Solver++ of order 2 with Karras' noise levels; 20 steps follow the same "
        "equation better than 50 of DDIM. `unipc`: UniPC of order 2 over the same noise levels.",
    )
    num_inference_steps: int = Field(default=50, ge=1, le=1000, description="Sampling steps. Paper: 50.")
    guidance_scale: float = Field(
        default=6.0,
        ge=0.0,
        description="s in e_u + s (e_c - e_u); 1 switches guidance off. Paper: 6 (Ho & Salimans' w would be s - 1).",
    )
    eta: float = Field(
        default=0.0, ge=0.0, le=1.0, description="DDIM's noise share; 0 is deterministic given the start noise. Paper: 0."
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_removed(cls, values: Any) -> Any:
        for key in ("guidance_interval", "reuse_interval"):
            if isinstance(values, dict) and key in values:
                raise ValueError(
                    f"{key} is gone: it changed the views to save steps; remove the key, and for fewer steps set scheduler: dpm_solver "
                    "with num_inference_steps: 20"
                )
        return values

    @model_validator(mode="after")
    def _eta_needs_ddim(self) -> Self:
        if self.eta and self.scheduler != "ddim":
            raise ValueError(f"eta = {self.eta} belongs to scheduler ddim; scheduler {self.scheduler} has no eta, set it to 0")
        return self
