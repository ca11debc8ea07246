"""Float32 matrix products on a CPU through oneDNN.

torch sends plain float32 products to MKL, which on some processors keeps to narrower vector instructions; oneDNN was measured twice
as fast there and equally fast elsewhere. Results differ from MKL's only by the order of summation.
Shapes: `...` any leading dimensions, I input width, O output width, Q queries, K keys, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OneDnnLinear(nn.Module):
    """A frozen linear layer whose weights lie in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight_OI = linear.weight.detach().to_mkldnn()
        self.bias_O = None if linear.bias is None else linear.bias.detach().to_mkldnn()

    def forward(self, inputs_I: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        outputs: Tensor = F.linear(inputs_I.to_mkldnn(), self.weight_OI, self.bias_O).to_dense()
        return outputs


def use_onednn(module: nn.Module) -> None:
    """Replace all float32 linear layers of a frozen CPU module; nothing happens where torch was built without oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype == torch.float32:
                setattr(parent, name, OneDnnLinear(child))


def products(queries_QD: Tensor, keys_KD: Tensor) -> Tensor:
    """All dot products (Q, K) of two sets of vectors."""
    on_cpu = queries_QD.device.type == "cpu" and queries_QD.dtype == torch.float32
    if on_cpu and torch.backends.mkldnn.is_available():
        found: Tensor = F.linear(queries_QD.to_mkldnn(), keys_KD.to_mkldnn()).to_dense()
        return found
    return queries_QD @ keys_KD.T
