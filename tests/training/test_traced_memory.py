"""The memory of a training step, traced without a GPU."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdgmae.runtime.interrupts import OutOfDeviceMemory
from cdgmae.training import traced_memory
from cdgmae.training.traced_memory import CONTEXT_BYTES, MARGIN, MemoryNeed, fitting_micro_batch, trace_memory


def mean_square(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(batch["x"]).square().mean()
    return loss


def batch_of(samples: int) -> dict[str, Tensor]:
    return {"x": torch.zeros(samples, 100)}


def test_bytes_of_a_small_network_are_those_counted_by_hand() -> None:
    """At the peak, per sample in float32: 100 inputs, 50 outputs of the layer and 50 of the ReLU (later their squares)."""
    model = nn.Sequential(nn.Linear(100, 50), nn.ReLU())
    need = trace_memory(model, mean_square, batch_of, "fp32", ema=False)
    assert need.per_sample == 4 * (100 + 50 + 50) + 400  # and the next batch
    parameters = 100 * 50 + 50
    assert need.fixed == pytest.approx(CONTEXT_BYTES + 20 * parameters, abs=16)
    assert trace_memory(model, mean_square, batch_of, "fp32", ema=True).fixed == need.fixed + 4 * parameters
    model.requires_grad_(False)
    frozen = trace_memory(model, mean_square, batch_of, "fp32", ema=False)
    assert frozen.fixed == pytest.approx(CONTEXT_BYTES + 4 * parameters, abs=16)


def test_tracing_leaves_model_and_autocast_as_they_were() -> None:
    model = nn.Linear(100, 50)
    before = model.weight.detach().clone()
    trace_memory(model, mean_square, batch_of, "bf16", ema=False)
    assert torch.equal(model.weight, before)
    assert model.weight.device.type == "cpu"
    assert not torch.is_autocast_enabled("cuda")
    assert model.weight.grad is None


def test_attention_is_that_of_the_fused_kernel() -> None:
    """Twice as many tokens need about twice the memory, not four times."""
    needs = [
        trace_memory(
            nn.Identity(),
            lambda _, batch: F.scaled_dot_product_attention(batch["x"], batch["x"], batch["x"], dropout_p=0.1).mean(),
            lambda samples, tokens=tokens: {"x": torch.zeros(samples, 2, tokens, 32, dtype=torch.bfloat16)},
            "bf16",
            ema=False,
        ).per_sample
        for tokens in (512, 1024)
    ]
    assert needs[1] < 2.1 * needs[0]


def test_the_largest_micro_batch_leaves_the_margin(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    need, card = MemoryNeed(fixed=2 << 30, per_sample=100 << 20), 80 << 30
    largest = need.largest_micro_batch(card)
    assert need.of(largest) <= (1 - MARGIN) * card < need.of(largest + 1)
    assert need.largest_micro_batch(2 << 30) == 0
    monkeypatch.setattr(traced_memory.torch.cuda, "get_device_properties", lambda _: type("Card", (), {"total_memory": card}))
    with caplog.at_level(logging.INFO, "cdgmae"):
        assert fitting_micro_batch(need, torch.device("cuda", 0)) == largest
    assert "100 MiB per sample and 2.0 GiB besides, of 80.0 GiB; up to" in caplog.text
    with pytest.raises(OutOfDeviceMemory, match=r"one sample of this run needs 202.0 GiB, and 85% .* 68.0 GiB; use bf16"):
        fitting_micro_batch(MemoryNeed(2 << 30, 200 << 30), torch.device("cuda", 0))
