"""The model against golden numbers of the published implementation and against its own definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgmae import CrossViewMAE
from cdgmae.models.masking import count_visible, draw_mask
from tests.oracles.formula_weights import formula_normal, formula_tensor, formula_uniform
from tests.oracles.literal_mae import literal_loss, literal_memory

GOLDEN = json.loads((Path(__file__).parent / "mae_forward_golden.json").read_text())
FORWARD_CASES = [case for case in GOLDEN["cases"] if "loss" in case]
COUNT_CASES = [case for case in GOLDEN["cases"] if "parameters" in case]
TINY = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip


def golden_model(case: dict) -> CrossViewMAE:
    model = CrossViewMAE(**case["config"], norm_pix_loss=case["norm_pix_loss"], target_masking_ratio=case["target_masking_ratio"])
    state = {
        key: tensor if "pos_embed" in key else formula_tensor(GOLDEN["seed"], key, tuple(tensor.shape))
        for key, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("case", FORWARD_CASES, ids=lambda c: f"{c['model']}-{c['target_masking_ratio']}-{c['norm_pix_loss']}")
@torch.no_grad()
def test_forward_equals_the_published_implementation(case: dict) -> None:
    model, name = golden_model(case), case["model"]
    images = formula_normal(GOLDEN["seed"], f"{name}/images", (2, 2, 3, 224, 224))
    patches = (224 // case["config"]["patch_size"]) ** 2
    noise = formula_uniform(GOLDEN["seed"], f"{name}/noise/{case['target_masking_ratio']}", (2, patches))
    output = model(images[:, 1], images[:, :1], noise)
    tokens = model.encode(images[:, 0])
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-5)
    assert int((output.masked_BN == 0).sum(1)[0]) == case["visible"]
    torch.testing.assert_close(output.prediction_BNP[0, 0, :4], torch.tensor(case["prediction_first"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.prediction_BNP[-1, -1, -4:], torch.tensor(case["prediction_last"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens[0, 0, :4], torch.tensor(case["anchor_tokens_cls"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens[-1, -1, -4:], torch.tensor(case["anchor_tokens_last"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", COUNT_CASES, ids=lambda c: c["model"])
def test_parameter_counts_and_state_keys_are_the_published_ones(case: dict) -> None:
    model = CrossViewMAE(**case["config"])
    assert sum(parameter.numel() for parameter in model.parameters()) == case["parameters"]
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == case["trainable"]
    assert len(model.state_dict()) == case["state_dict_entries"]
    assert set(case["keys_sample"]) <= set(model.state_dict())


@torch.no_grad()
def test_identical_unmasked_anchors_equal_one_anchor() -> None:
    model = CrossViewMAE(**TINY).eval()
    target, anchor, noise = torch.randn(2, 3, 32, 32), torch.randn(2, 1, 3, 32, 32), torch.rand(2, 16)
    one = model(target, anchor, noise)
    three = model(target, anchor.expand(-1, 3, -1, -1, -1), noise)
    torch.testing.assert_close(one.prediction_BNP, three.prediction_BNP, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_masked_anchors_equal_the_literal_per_anchor_encoding() -> None:
    model = CrossViewMAE(**TINY, anchor_masking_ratio=0.25).eval()
    anchors, noise = torch.randn(2, 3, 3, 32, 32), torch.rand(2, 3, 16)
    fast = model._anchor_memory(anchors, noise)
    torch.testing.assert_close(fast, model.decoder_embed(literal_memory(model, anchors, noise, 0.25)), rtol=1e-5, atol=1e-6)
    assert fast.shape == (2, 3 * (1 + 12), 16)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@torch.no_grad()
def test_loss_equals_the_literal_sum_over_masked_patches(norm_pix_loss: bool) -> None:
    model = CrossViewMAE(**TINY, norm_pix_loss=norm_pix_loss, target_masking_ratio=0.75).eval()
    target = torch.randn(3, 3, 32, 32)
    output = model(target, torch.randn(3, 1, 3, 32, 32))
    assert output.loss.item() == pytest.approx(
        literal_loss(target, output.prediction_BNP, output.masked_BN, 8, norm_pix_loss), rel=1e-5
    )


def test_plain_mae_needs_no_anchor_and_trains_every_encoder_weight() -> None:
    model = CrossViewMAE(**TINY)
    model(torch.randn(2, 3, 32, 32)).loss.backward()
    untouched = {name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None}
    assert all("multihead_attn" in name or "norm2" in name for name in untouched)
    assert not any(name.startswith("blocks.") for name in untouched)


@pytest.mark.parametrize(
    ("ratio", "kept"), [(0.25, 147), (0.5, 98), (0.75, 49), (0.9, 19), (0.95, 9), (0.98, 3), (0.985, 2), (0.99, 1)]
)
def test_visible_counts_are_truncated_like_the_published_code(ratio: float, kept: int) -> None:
    assert count_visible(196, ratio) == kept


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(1, 3), patches=st.integers(4, 60), ratio=st.floats(0.0, 0.74))
def test_mask_splits_patches_and_restores_their_order(batch: int, patches: int, ratio: float) -> None:
    mask = draw_mask(torch.rand(batch, patches), ratio)
    values = torch.arange(patches).float().expand(batch, -1)[..., None]
    visible = mask.keep(values)
    shuffled = torch.cat([visible, torch.full((batch, patches - visible.shape[1], 1), -1.0)], dim=1)
    restored = shuffled.gather(1, mask.restore_BN[..., None])
    torch.testing.assert_close(restored, torch.where(mask.masked_BN[..., None] == 1, -1.0, values))
    assert int(mask.masked_BN.sum()) == batch * (patches - count_visible(patches, ratio))
