"""The fast model against the straightforward one that the benchmark compares it with: same weights, same loss, same gradients."""

from __future__ import annotations

import pytest
import torch

from cdgmae import CrossViewMAE
from tests.oracles.straightforward_mae import StraightforwardMAE

TINY = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(("num_anchors", "ratio"), [(1, 0.0), (3, 0.25)])
def test_loss_and_gradients_equal_the_straightforward_implementation(num_anchors: int, ratio: float) -> None:
    model = CrossViewMAE(**TINY, anchor_masking_ratio=ratio).eval()
    straightforward = StraightforwardMAE(**TINY, anchor_masking_ratio=ratio).eval()
    straightforward.load_state_dict(model.state_dict(), strict=True)
    inputs = (
        torch.randn(3, 3, 32, 32), torch.randn(3, num_anchors, 3, 32, 32), torch.rand(3, 16), torch.rand(3, num_anchors, 16),
    )  # fmt: skip
    loss, expected = model(*inputs).loss, straightforward(*inputs)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = dict(straightforward.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-6, msg=name)
