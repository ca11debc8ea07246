"""The conditioning stages of the published generators: which one a checkpoint has, and its weights.

* One linear layer over one embedding (Large-Image-Diffusion, Gen-SIS): one token.
* ZoomLDM's transformer over a grid of embeddings: 65 tokens.
* RCG: the standardised embedding itself, made by an encoder inside the checkpoint.
Source: spec view_generators sections 1.3 and 4.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cdgmae.generators.imported.original_checkpoint import ImportRefused, KeyLedger
from cdgmae.generators.imported.original_config import OriginalConfig
from cdgmae.generators.parts.condition_projector import ConditionProjector
from cdgmae.generators.parts.grid_projector import GridProjector
from cdgmae.generators.pipeline import Projector
from cdgmae.models.encoders.projected_encoder import head_widths, projection_head, write_projected_encoder
from cdgmae.models.vit import build_vit
from cdgmae.settings.encoder import VitSettings

CONDITION_PREFIX = "cond_stage_model."
ENCODER_PREFIX = "pretrained_encoder."

ENCODER_HEADS = {"mocov3_vit_small": 12, "mocov3_vit_base": 12, "mocov3_vit_large": 16}
"""Attention heads of RCG's encoders; MoCo-v3's ViT-S has 12, not the usual 6."""

RCG_UNUSED = {CONDITION_PREFIX: "class embedding, which a generator conditioned on representations does not use"}
GRID_HEADS = 8


def build_projector(
    ledger: KeyLedger, config: OriginalConfig, *, null_condition: str | None, normalisation: str | None, magnification: int
) -> Projector:
    """The checkpoint's conditioning stage with its weights.

    Args:
        ledger: The checkpoint.
        config: Its configuration.
        null_condition: `zero_input`, `zero_token` or None for what the kind of generator was trained with.
        normalisation: `l2`, `standardise`, `none` or None for what the configuration says.
        magnification: Level to sample ZoomLDM at.

    Raises:
        ValueError: if the conditioning stage is none of the known ones, or an option does not fit it.
    """
    if is_rcg(ledger, config):
        if null_condition not in (None, "none"):
            raise ValueError(f"null condition {null_condition!r}: RCG's generator was trained with its condition always present")
        return _identity_projector(ledger, config.unet["cross_attention_dim"], normalisation or "standardise")
    if ledger.has(f"{CONDITION_PREFIX}dim_reduce."):
        if null_condition not in (None, "zero_token"):
            raise ValueError(f"null condition {null_condition!r}: ZoomLDM was trained with zero tokens; use zero_token")
        return _grid_projector(ledger, config, normalisation or "standardise", magnification)
    if normalisation is None:
        normalisation = "l2" if config.condition.get("normalize_ssl", True) else "none"
    return _linear_projector(ledger, config.unet["cross_attention_dim"], null_condition or "zero_input", normalisation)


def is_rcg(ledger: KeyLedger, config: OriginalConfig) -> bool:
    """Whether the condition is the representation of an encoder that belongs to the generator."""
    return config.encoder is not None or ledger.has(ENCODER_PREFIX)


def write_rcg_encoder(ledger: KeyLedger, config: OriginalConfig, path: Path) -> Path | None:
    """Write the encoder inside an RCG checkpoint as a file of its own; None if the checkpoint has none.

    Raises:
        ImportRefused: if the configuration names an encoder that is not supported.
    """
    if not ledger.has(ENCODER_PREFIX):
        return None
    options = config.encoder or {}
    arch = options.get("pretrained_enc_arch", "mocov3_vit_base")
    if (
        arch not in ENCODER_HEADS
        or options.get("pretrained_enc_pca_path")
        or not options.get("pretrained_enc_withproj", not options)
    ):
        raise ImportRefused(
            f"pretrained_enc_config {options}: supported are {', '.join(ENCODER_HEADS)} with projection head and without PCA"
        )
    architecture = _vit_settings(ledger.state, ENCODER_HEADS[arch])
    with torch.device("meta"):
        vit = build_vit(architecture)
        head = projection_head(head_widths(ledger.state, f"{ENCODER_PREFIX}head."))
    ledger.fill("encoder", vit, lambda name: ENCODER_PREFIX + name)
    ledger.fill("encoder.head", head, lambda name: f"{ENCODER_PREFIX}head.{name}")
    if not ledger.missing and not ledger.reshaped:
        write_projected_encoder(path, vit, head, architecture)
    return path


def _vit_settings(state: dict[str, Tensor], heads: int) -> VitSettings:
    try:
        embed_dim, _, patch_size, _ = state[f"{ENCODER_PREFIX}patch_embed.proj.weight"].shape
        grid = round((state[f"{ENCODER_PREFIX}pos_embed"].shape[1] - 1) ** 0.5)
    except KeyError as error:
        raise ImportRefused(f"the encoder inside the checkpoint has no {error}; it is no ViT of MoCo-v3") from None
    depth = len({key.split(".")[2] for key in state if key.startswith(f"{ENCODER_PREFIX}blocks.")})
    return VitSettings(image_size=grid * patch_size, patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=heads)


def _identity_projector(ledger: KeyLedger, width: int, normalisation: str) -> ConditionProjector:
    ledger.ignore(RCG_UNUSED)
    projector: ConditionProjector = ConditionProjector(width, width, "none", normalisation, "identity")
    return projector


def _grid_projector(ledger: KeyLedger, config: OriginalConfig, normalisation: str, magnification: int) -> GridProjector:
    def size(key: str, axis: int) -> int:
        tensor = ledger.state.get(CONDITION_PREFIX + key)
        if tensor is None:
            raise ImportRefused(f"{CONDITION_PREFIX}{key} is missing, so the conditioning transformer cannot be built")
        return tensor.shape[axis]

    layers = {key.split(".")[3] for key in ledger.state if key.startswith(f"{CONDITION_PREFIX}encoder.layers.")}
    with torch.device("meta"):
        projector: GridProjector = GridProjector(
            embedding_dim=size("dim_reduce.weight", 1), cross_attention_dim=size("final_proj.weight", 0),
            hidden_dim=size("dim_reduce.weight", 0), num_layers=len(layers), num_heads=config.condition.get("num_heads", GRID_HEADS),
            mlp_dim=size("encoder.layers.encoder_layer_0.mlp.0.weight", 0),
            grid=round((size("encoder.pos_embedding", 1) - 1) ** 0.5), magnification_levels=size("mag_embedding.weight", 0),
            magnification=magnification, final_norm=ledger.has(f"{CONDITION_PREFIX}layer_norm."), normalisation=normalisation,
        )  # fmt: skip
    ledger.fill("projector", projector, lambda name: CONDITION_PREFIX + name)
    return projector


def _linear_projector(ledger: KeyLedger, width: int, null_condition: str, normalisation: str) -> ConditionProjector:
    weights = [key for key, tensor in ledger.state.items() if key.startswith(CONDITION_PREFIX) and tensor.ndim == 2]
    if len(weights) != 1 or not weights[0].endswith(".weight"):
        layers = sorted({key.split(".")[1] for key in ledger.state if key.startswith(CONDITION_PREFIX)})
        raise ImportRefused(
            f"the conditioning stage ({', '.join(layers) or 'no keys under ' + CONDITION_PREFIX}) is none of: one linear layer over one "
            "embedding, ZoomLDM's transformer, RCG's representation; there is nothing to condition on an image embedding with"
        )
    with torch.device("meta"):
        projector: ConditionProjector = ConditionProjector(
            ledger.state[weights[0]].shape[1], width, null_condition, normalisation
        )
    layer = weights[0].removesuffix("weight")
    ledger.fill("projector", projector, lambda name: name.replace("linear.", layer, 1))
    return projector
