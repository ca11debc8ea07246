"""Architectures, state-dict layout and initialisation (spec cross_view_mae 1.1, 1.7, 1.8)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cdgmae import CrossViewMAE
from cdgmae.settings.encoder import ARCHITECTURES
from cdgmae.settings.pretrain import PretrainRunSettings, with_run_defaults

MAE_DECODERS = {"vitb16": (512, 8, 16), "vitl16": (1024, 12, 16)}
COUNTS = [  # architecture, all parameters, trained ones, those of them in the encoder
    ("vits16", 28_327_808, 28_201_728, 21_590_016),
    ("vits8", 28_334_912, 27_832_512, None),
    ("vitb16", 120_321_024, 120_068_864, 85_647_360),
    ("vitl16", 456_547_072, 456_143_616, 303_099_904),
]
ENCODER = ("cls_token", "patch_embed.", "blocks.", "norm.")


@pytest.mark.parametrize(("name", "total", "trained", "encoder"), COUNTS, ids=[row[0] for row in COUNTS])
def test_named_architectures_have_the_published_parameter_counts(
    name: str, total: int, trained: int, encoder: int | None
) -> None:
    width, depth, heads = MAE_DECODERS.get(name, (256, 4, 8))
    settings = PretrainRunSettings.from_plain(
        {"architecture": name, "decoder_embed_dim": width, "decoder_depth": depth, "decoder_num_heads": heads}
    )
    with torch.device("meta"):
        model = CrossViewMAE.from_settings(settings)
    trainable = {key: parameter.numel() for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    assert sum(trainable.values()) == trained
    assert encoder in (None, sum(count for key, count in trainable.items() if key.startswith(ENCODER)))


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def published_layout(d: int, e: int, depth: int, decoder_depth: int, tokens: int, patch: int) -> dict[str, tuple[int, ...]]:
    """Every key of the published state dict with its shape, as the spec lists them."""
    keys: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, d), "pos_embed": (1, tokens, d), "mask_token": (1, 1, e), "decoder_pos_embed": (1, tokens, e),
        "patch_embed.proj.weight": (d, 3, patch, patch), "patch_embed.proj.bias": (d,),
        **norm("norm", d), **linear("decoder_embed", e, d), **norm("decoder_norm", e),
        **linear("decoder_pred", 3 * patch**2, e),
    }  # fmt: skip
    for i in range(depth):
        name = f"blocks.{i}"
        keys |= {**norm(f"{name}.norm1", d), **norm(f"{name}.norm2", d)}
        keys |= {**linear(f"{name}.attn.qkv", 3 * d, d), **linear(f"{name}.attn.proj", d, d)}
        keys |= {**linear(f"{name}.mlp.fc1", 4 * d, d), **linear(f"{name}.mlp.fc2", d, 4 * d)}
    for i in range(decoder_depth):
        name = f"decoder_blocks.{i}"
        for attention in ("self_attn", "multihead_attn"):
            keys |= {f"{name}.{attention}.in_proj_weight": (3 * e, e), f"{name}.{attention}.in_proj_bias": (3 * e,)}
            keys |= linear(f"{name}.{attention}.out_proj", e, e)
        keys |= {**linear(f"{name}.linear1", 2048, e), **linear(f"{name}.linear2", e, 2048)}
        keys |= {key: shape for k in (1, 2, 3) for key, shape in norm(f"{name}.norm{k}", e).items()}
    return keys


def test_state_dict_has_exactly_the_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        state = CrossViewMAE(**ARCHITECTURES["vits16"]).state_dict()
    expected = published_layout(384, 256, 12, 4, 197, 16)
    assert len(expected) == 230
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == expected


def uniform_bound(values: Tensor) -> float:
    """The bound of a uniform distribution around 0, from its standard deviation."""
    return float(values.std()) * math.sqrt(3)


def test_initial_values_follow_the_published_distributions() -> None:
    torch.manual_seed(0)
    model = CrossViewMAE(embed_dim=384, depth=1, decoder_depth=1)
    state = model.state_dict()
    xavier = {
        "blocks.0.attn.qkv.weight": math.sqrt(6 / (4 * 384)),
        "blocks.0.mlp.fc1.weight": math.sqrt(6 / (5 * 384)),
        "decoder_blocks.0.self_attn.in_proj_weight": math.sqrt(6 / (4 * 256)),
        "decoder_blocks.0.multihead_attn.in_proj_weight": math.sqrt(6 / (4 * 256)),
        "decoder_blocks.0.self_attn.out_proj.weight": math.sqrt(6 / (2 * 256)),
        "decoder_blocks.0.linear1.weight": math.sqrt(6 / (2048 + 256)),
        "decoder_embed.weight": math.sqrt(6 / (384 + 256)),
        "decoder_pred.weight": math.sqrt(6 / (768 + 256)),
        "patch_embed.proj.weight": math.sqrt(6 / (768 + 384)),  # as a (D, 3 P^2) matrix
    }
    for key, bound in xavier.items():
        assert float(state[key].abs().max()) <= bound * (1 + 1e-6), key
        assert uniform_bound(state[key]) == pytest.approx(bound, rel=0.02), key
    assert uniform_bound(state["patch_embed.proj.bias"]) == pytest.approx(1 / math.sqrt(768), rel=0.1)
    assert float(state["cls_token"].std()) == pytest.approx(0.02, rel=0.2)
    assert float(state["mask_token"].std()) == pytest.approx(0.02, rel=0.2)
    zeros = [key for key in state if key.endswith("bias") and key != "patch_embed.proj.bias"]
    assert all(not state[key].any() for key in zeros)
    assert all(bool((tensor == 1).all()) for key, tensor in state.items() if "norm" in key and key.endswith("weight"))


@torch.no_grad()
def test_first_loss_is_that_of_an_untrained_model() -> None:
    torch.manual_seed(0)
    model = CrossViewMAE(depth=2)
    assert 1.1 < model(torch.randn(2, 3, 224, 224), torch.randn(2, 1, 3, 224, 224)).loss.item() < 1.9


def test_architecture_fills_in_dimensions_and_contradictions_are_refused() -> None:
    assert PretrainRunSettings.from_plain({"architecture": "vitb16"}).embed_dim == 768
    runs = with_run_defaults({"defaults": {"architecture": "vits8"}, "runs": {"a": {"image_size": 200}}})["runs"]
    assert PretrainRunSettings.from_plain(runs["a"]).patch_size == 8
    with pytest.raises(ValueError, match="patch_size = 16 contradicts architecture = 'vits8'"):
        PretrainRunSettings.from_plain({"architecture": "vits8", "patch_size": 16})
