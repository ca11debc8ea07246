"""Options of the model, what it refuses, and the ways it may be run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cdgmae import CrossViewMAE

TINY = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip


def views(batch: int = 2, anchors: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Target, anchors and the noise of both."""
    return (
        torch.randn(batch, 3, 32, 32), torch.randn(batch, anchors, 3, 32, 32),
        torch.rand(batch, 16), torch.rand(batch, anchors, 16),
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_anchor_positions_are_those_of_the_patches_that_were_kept(ratio: float) -> None:
    model = CrossViewMAE(**TINY, anchor_masking_ratio=ratio).eval()
    _, anchors, _, noise = views()
    plain = model._anchor_memory(anchors, noise)
    model.anchor_positions = True
    added = (model._anchor_memory(anchors, noise) - plain).reshape(2, 3, -1, 16)
    table = model.decoder_pos_embed[0]
    for sample in range(2):
        for anchor in range(3):
            kept = noise[sample, anchor].argsort()[: int(16 * (1 - ratio))] if ratio else torch.arange(16)
            expected = torch.cat([table[:1], table[1:][kept]])
            torch.testing.assert_close(added[sample, anchor], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_cls_tokens_of_anchors_can_be_left_out_of_the_memory() -> None:
    model = CrossViewMAE(**TINY, anchor_masking_ratio=0.25).eval()
    _, anchors, _, noise = views()
    whole = model._anchor_memory(anchors, noise).reshape(2, 3, 13, 16)
    model.anchor_cls_in_memory = False
    torch.testing.assert_close(model._anchor_memory(anchors, noise), whole[:, :, 1:].reshape(2, 36, 16))


WRONG = [
    ({"target": (2, 3, 40, 32)}, r"shape \(2, 3, 40, 32\); this model takes \(batch, 3, 32, 32\)"),
    ({"target": (2, 1, 32, 32)}, r"shape \(2, 1, 32, 32\)"),
    ({"target": (3, 32, 32)}, r"shape \(3, 32, 32\)"),
    ({"anchors": (2, 3, 32, 32)}, r"anchors have shape \(2, 3, 32, 32\)"),
    ({"anchors": (2, 0, 3, 32, 32)}, r"number of anchors >= 1.*None for no anchor"),
    ({"anchors": (4, 1, 3, 32, 32)}, r"anchors have shape \(4, 1"),
    ({"anchors": (2, 1, 3, 64, 64)}, r"anchors have shape"),
    ({"noise": (2, 15)}, r"target noise has shape \(2, 15\).*must be \(2, 16\)"),
    ({"anchor_noise": (2, 1, 16)}, r"anchor noise has shape \(2, 1, 16\).*must be \(2, 2, 16\)"),
    ({"seeds": (3,)}, r"dropout seeds has shape \(3,\).*must be \(2,\)"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=[str(row[0]) for row in WRONG])
def test_inputs_of_another_shape_are_refused(changed: dict[str, tuple[int, ...]], message: str) -> None:
    shapes = {
        "target": (2, 3, 32, 32), "anchors": (2, 2, 3, 32, 32), "noise": (2, 16), "anchor_noise": (2, 2, 16), "seeds": (2,),
    } | changed  # fmt: skip
    inputs = {name: torch.zeros(shape, dtype=torch.int64 if name == "seeds" else torch.float32) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        CrossViewMAE(**TINY)(*inputs.values())


def test_what_cannot_be_computed_is_refused() -> None:
    target, anchors, _, anchor_noise = views()
    with pytest.raises(ValueError, match="masks none of 16 patches"):
        CrossViewMAE(**TINY, target_masking_ratio=0.0)(target)
    with pytest.raises(ValueError, match="anchor noise is given, but no anchors"):
        CrossViewMAE(**TINY)(target, None, None, anchor_noise)
    with pytest.raises(ValueError, match="leaves nothing of the anchors"):
        CrossViewMAE(**TINY, anchor_masking_ratio=0.99, anchor_cls_in_memory=False)(target, anchors)
    with pytest.raises(ValueError, match=r"this model takes \(batch, 3, 32, 32\)"):
        CrossViewMAE(**TINY).encode(torch.zeros(1, 3, 64, 64))


def test_autocast_keeps_the_loss_in_float32_and_close() -> None:
    model = CrossViewMAE(**TINY, anchor_masking_ratio=0.25).eval()
    inputs = views()
    exact = model(*inputs).loss
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*inputs)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
def test_channels_last_images_give_the_same_output() -> None:
    model = CrossViewMAE(**TINY).eval()
    target, anchors, noise, _ = views()
    expected = model(target, anchors, noise)
    found = model(
        target.contiguous(memory_format=torch.channels_last), anchors.transpose(2, 4).contiguous().transpose(2, 4), noise
    )
    torch.testing.assert_close(found.prediction_BNP, expected.prediction_BNP, rtol=1e-5, atol=1e-6)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)


@pytest.mark.slow
def test_forward_is_one_graph_for_the_compiler() -> None:
    """`aot_eager` traces forward and backward as `inductor` does, without its compiler."""
    model = CrossViewMAE(**{**TINY, "depth": 1, "decoder_depth": 1}, anchor_masking_ratio=0.25).eval()
    inputs = views()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    output = compiled(*inputs)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(model(*inputs).loss.item(), rel=1e-5)
    assert model.mask_token.grad is not None
