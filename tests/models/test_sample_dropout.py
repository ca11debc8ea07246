"""Per-sample dropout: independent of how a batch is split, of the right rate, and only in training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cdgmae import CrossViewMAE
from cdgmae.models.sample_dropout import SampleDropout

SEEDS = torch.tensor([11, 2**62, 5, 0, 77, 123456789])


def tiny_model() -> CrossViewMAE:
    torch.manual_seed(0)
    return CrossViewMAE(
        img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=2,
        decoder_num_heads=2, target_masking_ratio=0.75, anchor_masking_ratio=0.25, decoder_dropout=0.3,
    ).train()  # fmt: skip


def loss_and_gradients(model: CrossViewMAE, inputs: tuple[Tensor, ...], parts: list[slice]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a batch taken in parts, each weighted by its share."""
    model.zero_grad()
    total = 0.0
    for part in parts:
        target, anchors, noise, anchor_noise, seeds = (tensor[part] for tensor in inputs)
        share = len(target) / len(inputs[0])
        loss = model(target, anchors, noise, anchor_noise, seeds).loss * share
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_do_not_depend_on_how_the_batch_is_split() -> None:
    model = tiny_model()
    inputs = (
        torch.randn(6, 3, 32, 32), torch.randn(6, 2, 3, 32, 32), torch.rand(6, 16), torch.rand(6, 2, 16), SEEDS,
    )  # fmt: skip
    loss, gradients = loss_and_gradients(model, inputs, [slice(0, 6)])
    for parts in ([slice(0, 3), slice(3, 6)], [slice(0, 4), slice(4, 6)], [slice(i, i + 1) for i in range(6)]):
        part_loss, part_gradients = loss_and_gradients(model, inputs, parts)
        assert part_loss == pytest.approx(loss, rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(part_gradients[name], gradient, rtol=1e-4, atol=1e-7)
    other_loss, _ = loss_and_gradients(model, (*inputs[:4], SEEDS + 1), [slice(0, 6)])
    assert abs(other_loss - loss) > 1e-4


def test_every_dropout_of_the_decoder_draws_from_the_seeds() -> None:
    model, target, anchors, noise = tiny_model(), torch.randn(2, 3, 32, 32), torch.randn(2, 1, 3, 32, 32), torch.rand(2, 16)
    first = model(target, anchors, noise, torch.zeros(2, 1, 16), SEEDS[:2]).prediction_BNP
    torch.rand(7)  # whatever the global generator does meanwhile
    again = model(target, anchors, noise, torch.zeros(2, 1, 16), SEEDS[:2]).prediction_BNP
    assert torch.equal(first, again)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_draws_have_the_rate_keep_the_mean_and_differ_by_sample_site_and_place(rate: float) -> None:
    draws, values = SampleDropout(torch.tensor([1, 2])), torch.ones(2, 50, 2001)
    first, second = draws.multiplier(values, rate), draws.multiplier(values, rate)
    for multiplier in (first, second):
        assert multiplier.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)], rel=1e-4)
        assert float((multiplier == 0).float().mean()) == pytest.approx(rate, rel=0.02)
        assert float(multiplier.mean()) == pytest.approx(1.0, abs=0.005)
    dropped = [(tensor == 0).float() for tensor in (first[0], first[1], second[0], first[0].roll(1, dims=-1))]
    for other in dropped[1:]:
        assert float((dropped[0] * other).mean()) == pytest.approx(rate**2, rel=0.1)
    per_draw = dropped[0].flatten()[:100_000].reshape(-1, 4).mean(0)  # the four draws of one 64-bit number
    assert per_draw.tolist() == pytest.approx([rate] * 4, rel=0.1)


@torch.no_grad()
def test_the_expected_attention_is_that_of_ordinary_dropout() -> None:
    """The decoder's mean output over many draws agrees between both ways of drawing."""
    model = tiny_model()
    block, size = model.decoder_blocks[0].self_attn, 4000
    tokens = torch.randn(1, 5, 16).expand(size, -1, -1)
    seeded = block(tokens, tokens, SampleDropout(torch.arange(size)))
    ordinary = block(tokens, tokens)
    torch.testing.assert_close(seeded.mean(0), ordinary.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(seeded.std(0), ordinary.std(0), rtol=0.1, atol=0.01)


@torch.no_grad()
def test_eval_mode_ignores_the_seeds() -> None:
    model = tiny_model().eval()
    inputs = (torch.randn(2, 3, 32, 32), torch.randn(2, 1, 3, 32, 32), torch.rand(2, 16), torch.rand(2, 1, 16))
    assert torch.equal(model(*inputs).prediction_BNP, model(*inputs, SEEDS[:2]).prediction_BNP)
