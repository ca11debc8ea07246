"""Float32 matrix products on a CPU through oneDNN, in training and of frozen networks.

torch sends plain float32 products to MKL, which on some processors keeps to narrower vector instructions; oneDNN, which torch ships too, was
measured up to twice as fast there (perf/results/train_step.md, propagation.md) and equally fast elsewhere. Results differ from MKL's only by
the order of summation. `torch.backends.mkldnn.flags(enabled=False)` switches all of this off.
Shapes: `...` any leading dimensions, I input width, O output width, Q queries, K keys, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdgmae.models.decoder import PackedAttention

MIN_PRODUCTS = 1 << 23
"""Multiplications from which on a trained layer goes through oneDNN: below, converting the layouts costs more than it saves."""


def linear(values: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """`torch.nn.functional.linear` with gradients, by oneDNN where that is the faster library."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return F.linear(values, weight_OI, bias_O)
    suits = _on_cpu(values) and weight_OI.dtype == torch.float32 and values.numel() * weight_OI.shape[0] >= MIN_PRODUCTS
    return F.linear(values.to_mkldnn(), weight_OI, bias_O).to_dense() if suits else F.linear(values, weight_OI, bias_O)


class OneDnnLinear(nn.Linear):
    """`nn.Linear` computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return linear(input, self.weight, self.bias)


def use_onednn(module: nn.Module) -> None:
    """Let a module that is trained on a CPU compute its linear layers by `linear`; parameters and their names stay."""
    for attention in module.modules():
        if isinstance(attention, PackedAttention):
            attention.linear = linear
    for parent, name, child in _linears(module):
        replacement = OneDnnLinear(child.in_features, child.out_features, device="meta")
        replacement.weight, replacement.bias = child.weight, child.bias
        setattr(parent, name, replacement)


class FrozenOneDnnLinear(nn.Module):
    """A frozen linear layer whose weights lie in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight_OI = linear.weight.detach().to_mkldnn()
        self.bias_O = None if linear.bias is None else linear.bias.detach().to_mkldnn()

    def forward(self, inputs_I: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        outputs: Tensor = F.linear(inputs_I.to_mkldnn(), self.weight_OI, self.bias_O).to_dense()
        return outputs


def freeze_to_onednn(module: nn.Module, min_weights: int = 0) -> None:
    """Replace the float32 linear layers of a frozen CPU module that hold at least so many weights.

    Small layers lose more by converting the layouts than they win. Nothing happens where torch was built without oneDNN.
    """
    for parent, name, child in _linears(module):
        if _on_cpu(child.weight) and child.weight.numel() >= min_weights:
            setattr(parent, name, FrozenOneDnnLinear(child))


def products(queries_QD: Tensor, keys_KD: Tensor) -> Tensor:
    """All dot products (Q, K) of two sets of vectors."""
    if _on_cpu(queries_QD):
        dense: Tensor = F.linear(queries_QD.to_mkldnn(), keys_KD.to_mkldnn()).to_dense()
        return dense
    return queries_QD @ keys_KD.T


def _on_cpu(tensor: Tensor) -> bool:
    """Whether oneDNN can take a tensor."""
    mkldnn = torch.backends.mkldnn
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and bool(mkldnn.is_available() and mkldnn.enabled)


def _linears(module: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name, layer) of every plain linear layer inside a module."""
    return [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
