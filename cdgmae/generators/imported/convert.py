"""From a checkpoint of the original latent diffusion code to a generator folder; strict, and with a report of every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from cdgmae import __version__
from cdgmae.generators.generator_folder import write_generator
from cdgmae.generators.imported.compvis_keys import (
    EMA_PREFIX,
    FIRST_STAGE_PREFIX,
    UNET_PREFIX,
    autoencoder_key,
    ema_key,
    unet_key,
)
from cdgmae.generators.imported.conditions import build_projector, is_rcg, write_rcg_encoder
from cdgmae.generators.imported.original_checkpoint import ImportRefused, KeyLedger, read_state
from cdgmae.generators.imported.original_config import OriginalConfig, read_original_config
from cdgmae.generators.pipeline import LatentDiffusionPipeline, noise_schedule
from cdgmae.models.encoders.by_name import Encoder
from cdgmae.models.encoders.projected_encoder import load_conditioning_encoder
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.views import ImportSettings
from cdgmae.storage.files.atomic import atomic_folder
from cdgmae.storage.tables import file_sha256

REPORT_FILE = "import_report.json"
ENCODER_FILE = "encoder.safetensors"

IGNORED = {
    f"{FIRST_STAGE_PREFIX}loss.": "perceptual loss and discriminator of the first stage's training",
    f"{EMA_PREFIX}decay": "bookkeeping of the moving average",
    f"{EMA_PREFIX}num_updates": "bookkeeping of the moving average",
    **dict.fromkeys(
        ("betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_", "lvlb_weights", "logvar", "cond_ids"),
        "table of the noise schedule, computed from its two betas",
    ),
}
RAW_WEIGHTS = "replaced by its moving average"


def import_generator(checkpoint: Path, config_file: Path, output: Path, options: ImportSettings) -> dict[str, Any]:
    """Convert a checkpoint to a generator folder.

    Args:
        checkpoint: Lightning checkpoint, RCG's `.pth`, or a `.safetensors` file with the same keys.
        config_file: The YAML configuration it was trained with.
        output: Generator folder; appears whole or not at all.
        options: What the checkpoint does not say.

    Returns:
        The job's result: output, layout, digest, parameters, counts of keys, encoder.

    Raises:
        ImportRefused: if any key is missing, of another shape or unexpected, with the full report beside `output`.
        ValueError: if the configuration or an option does not fit.
    """
    config, ledger = read_original_config(config_file), KeyLedger(read_state(checkpoint))
    beside = output.with_name(f"{output.name}.{REPORT_FILE}")
    beside.unlink(missing_ok=True)
    with atomic_folder(output) as folder:
        pipeline, weights = _build(ledger, config, options)
        inside = write_rcg_encoder(ledger, config, folder / ENCODER_FILE)
        ledger.ignore({**IGNORED, **dict.fromkeys(options.ignore, "asked for by `ignore`")})
        ledger.check_complete(checkpoint, beside)
        chosen = options.encoder or (EncoderSettings(checkpoint=str(inside)) if inside else None)
        encoder = _load_encoder(chosen, pipeline)
        provenance = {
            "version": __version__, "checkpoint": checkpoint.name, "sha256": file_sha256(checkpoint), "weights": weights,
            "options": options.model_dump(mode="json"), "condition": config.condition, "config_sha256": file_sha256(config_file),
        }  # fmt: skip
        metadata = write_generator(
            folder, pipeline, chosen, encoder.digest if encoder else "", image_size=config.image_size,
            encoder_image_size=options.encoder_image_size or (config.image_size if inside else 224), provenance=provenance,
        )  # fmt: skip
        ledger.write(folder / REPORT_FILE)
    return {
        "output": str(output), "layout": _layout(ledger, config), "weights": weights, "digest": metadata.digest,
        "encoder": metadata.encoder and metadata.encoder.text,
        "parameters": sum(parameter.numel() for parameter in pipeline.unet.parameters()), **ledger.counts(),
    }  # fmt: skip


def _build(ledger: KeyLedger, config: OriginalConfig, options: ImportSettings) -> tuple[LatentDiffusionPipeline, str]:
    """The pipeline, filled where the keys allow it, and which U-Net weights were taken."""
    scaling_factor = _scaling_factor(ledger, config)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config.unet)
        stage_class = VQModel if config.stage_kind == "vq" else AutoencoderKL
        stage = stage_class(**config.stage, scaling_factor=scaling_factor)
    scheduler = noise_schedule("ddim", config.prediction_type, config.betas)
    _check_betas(ledger, scheduler.alphas_cumprod)
    weights = _fill_unet(ledger, unet, config)
    levels = len(config.stage["block_out_channels"])
    ledger.fill("autoencoder", stage, lambda name: autoencoder_key(name, levels))
    projector = build_projector(
        ledger,
        config,
        null_condition=options.null_condition,
        normalisation=options.normalisation,
        magnification=options.magnification,
    )
    return LatentDiffusionPipeline(unet.eval(), scheduler, projector.eval(), stage.eval()), weights


def _fill_unet(ledger: KeyLedger, unet: UNet2DConditionModel, config: OriginalConfig) -> str:
    """Fill the U-Net, from its moving average if the checkpoint has one; the raw weights are then not used."""
    attends = [kind.startswith("CrossAttn") for kind in config.unet["up_block_types"]]
    averaged = ledger.has(f"{EMA_PREFIX}diffusion_model")

    def key_of(name: str) -> str:
        key = unet_key(name, config.unet["layers_per_block"], attends)
        return ema_key(key) if averaged else key

    ledger.fill("unet", unet, key_of)
    if averaged:
        ledger.ignore({UNET_PREFIX: RAW_WEIGHTS})
    return "moving average" if averaged else "as trained"


def _scaling_factor(ledger: KeyLedger, config: OriginalConfig) -> float:
    """The factor in the checkpoint (measured on the first batch in training, `scale_by_std`), or the configured one."""
    stored = ledger.state.get("scale_factor")
    if stored is None:
        return config.scaling_factor
    ledger.matched["scale_factor"] = "autoencoder.scaling_factor"
    return float(stored)


def _check_betas(ledger: KeyLedger, alphas: torch.Tensor) -> None:
    """The checkpoint's own noise levels must be the configured ones."""
    stored = ledger.state.get("alphas_cumprod")
    if stored is not None and (stored.shape != alphas.shape or not torch.allclose(stored.float(), alphas, rtol=1e-3, atol=0)):
        raise ImportRefused(
            f"the checkpoint was trained with other noise levels (last alpha_bar {float(stored[-1]):.4g}) than the configuration's "
            f"linear_start, linear_end and timesteps give ({float(alphas[-1]):.4g}); give the configuration that belongs to it"
        )


def _load_encoder(settings: EncoderSettings | None, pipeline: LatentDiffusionPipeline) -> Encoder | None:
    if settings is None:
        return None
    encoder = load_conditioning_encoder(settings, device=torch.device("cpu"))
    wanted = pipeline.projector.config["embedding_dim"]
    if encoder.embed_dim != wanted:
        raise ValueError(
            f"encoder {settings.text!r} gives embeddings of width {encoder.embed_dim}, the checkpoint was trained with width {wanted}; "
            "give --encoder the encoder that it was trained with"
        )
    return encoder


def _layout(ledger: KeyLedger, config: OriginalConfig) -> str:
    if is_rcg(ledger, config):
        return "RCG"
    return "ZoomLDM" if ledger.has("cond_stage_model.dim_reduce.") else "CompVis, one linear condition layer"
