"""The encoder of the golden numbers: a ViT-S/16 of formula weights, as a CropMAE-layout checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from cdgmae.models.vit import build_vit
from cdgmae.settings.encoder import VitSettings
from tests.oracles.formula_weights import formula_tensor

SEED = 20262
GAINS = {"blocks": 0.3, "patch_embed": 3.0}


def write_formula_checkpoint(path: Path) -> Path:
    state = build_vit(VitSettings()).state_dict()
    for key, tensor in state.items():
        if key != "pos_embed":  # positions keep their sin-cos table
            gain = GAINS.get(key.split(".")[0], 1.0) if tensor.ndim >= 2 else 1.0
            state[key] = formula_tensor(SEED, key, tuple(tensor.shape)) * gain
    torch.save({"model": state}, path)
    return path
