"""Learned first stages from a folder in diffusers layout (VQModel or AutoencoderKL, safetensors)."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel

FIRST_STAGES = {"VQModel": VQModel, "AutoencoderKL": AutoencoderKL}
FORGOTTEN_SCALING_FACTOR = 0.18215
"""What diffusers fills in where nothing was given; it belongs to Stable Diffusion's KL stage and is silently wrong for a VQ stage."""


def load_first_stage(folder: Path) -> VQModel | AutoencoderKL:
    """Load a frozen first stage.

    Args:
        folder: Written by diffusers' `save_pretrained`, e.g. `autoencoder/` of a generator folder.

    Raises:
        ValueError: if the folder holds no VQModel or AutoencoderKL with safetensors weights, or a VQModel with the scaling factor
            of Stable Diffusion's KL stage.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = FIRST_STAGES[config["_class_name"]]
        stage: VQModel | AutoencoderKL = kind.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"first stage {folder}: no diffusers folder of a {' or '.join(FIRST_STAGES)} with safetensors weights "
            f"({type(error).__name__}: {error})"
        ) from None
    if isinstance(stage, VQModel) and stage.config["scaling_factor"] == FORGOTTEN_SCALING_FACTOR:
        raise ValueError(
            f"first stage {folder}: scaling_factor {FORGOTTEN_SCALING_FACTOR} belongs to Stable Diffusion's KL stage; write the one of "
            "this VQ stage into its config.json (LDM's: 1.0)"
        )
    return stage.eval().requires_grad_(False)


def latent_channels(stage: VQModel | AutoencoderKL) -> int:
    """Channels of a stage's latents."""
    return int(stage.config.get("vq_embed_dim") or stage.config["latent_channels"])


def downsampling(stage: VQModel | AutoencoderKL) -> int:
    """Pixels per latent cell and side."""
    return int(2 ** (len(stage.config["block_out_channels"]) - 1))
