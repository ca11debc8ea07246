"""Linear layers through oneDNN: the same results and gradients as torch's own, under the same names."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cdgmae import CrossViewMAE
from cdgmae.models import onednn
from cdgmae.models.onednn import OneDnnLinear, linear, use_onednn


@pytest.fixture(autouse=True)
def _small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 0)


@pytest.mark.parametrize("shape", [(3, 7, 24), (5, 24)])
def test_values_and_gradients_are_those_of_the_ordinary_layer(shape: tuple[int, ...]) -> None:
    values, weight, bias = torch.randn(shape), torch.randn(16, 24), torch.randn(16)
    results = []
    for function in (linear, F.linear):
        leaves = [tensor.clone().requires_grad_() for tensor in (values, weight, bias)]
        output = function(*leaves)
        output.square().sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_views_and_slices_of_tensors_are_taken_as_they_are() -> None:
    values, weight, bias = torch.randn(4, 24, 7).transpose(1, 2), torch.randn(48, 24)[16:32], torch.randn(48)[16:32]
    torch.testing.assert_close(linear(values, weight, bias), F.linear(values, weight, bias), rtol=1e-4, atol=1e-4)


def test_replacing_keeps_names_values_and_random_state() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2)))
    state, random_state = {key: tensor.clone() for key, tensor in module.state_dict().items()}, torch.get_rng_state()
    use_onednn(module)
    assert isinstance(module[0], OneDnnLinear)
    assert isinstance(module[2][0], OneDnnLinear)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())


def test_a_training_step_equals_the_one_without_onednn() -> None:
    model = CrossViewMAE(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2
    ).train()
    use_onednn(model)
    assert all(isinstance(module, OneDnnLinear) for module in model.modules() if isinstance(module, nn.Linear))
    inputs = (torch.randn(3, 3, 32, 32), torch.randn(3, 2, 3, 32, 32), torch.rand(3, 16), None, torch.arange(3))
    gradients = []
    for enabled in (True, False):
        model.zero_grad()
        with torch.backends.mkldnn.flags(enabled=enabled):
            model(*inputs).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-6, msg=name)


def test_a_model_is_built_of_ordinary_layers() -> None:
    """What only a CPU's training path replaces never meets a reader, a compiler or a GPU."""
    with torch.device("meta"):
        model = CrossViewMAE()
    assert all(type(module) is nn.Linear for module in model.modules() if isinstance(module, nn.Linear))
    assert all(block.self_attn.linear is block.multihead_attn.linear is F.linear for block in model.decoder_blocks)
