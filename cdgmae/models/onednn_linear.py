"""Linear layers through oneDNN where that is the faster library: float32 on a CPU.

torch multiplies float32 matrices with MKL, which uses half the vector width of AMD processors; oneDNN, which torch ships too, takes
all of it (benchmarks/results/train_step.md). Results agree to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`torch.nn.functional.linear`; `torch.backends.mkldnn.flags(enabled=False)` switches the other way off."""
    suits = values.device.type == "cpu" and values.dtype == weight.dtype == torch.float32 and torch.backends.mkldnn.enabled
    if not suits or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return F.linear(values, weight, bias)
    return F.linear(values.to_mkldnn(), weight, bias).to_dense()


class OneDnnLinear(nn.Linear):
    """`nn.Linear` computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to the last axis."""
        return linear(input, self.weight, self.bias)


def use_onednn(module: nn.Module) -> None:
    """Replace every `nn.Linear` inside `module` by a `OneDnnLinear` with the same parameters; names stay as they are."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            replacement = OneDnnLinear(child.in_features, child.out_features, device="meta")
            replacement.weight, replacement.bias = child.weight, child.bias
            setattr(module, name, replacement)
        else:
            use_onednn(child)
