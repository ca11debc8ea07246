"""Tensors that say they lie on a GPU, hold no numbers, and run every check of devices, dtypes and shapes; no GPU is needed.

`FakeCuda` traces a computation with them and notes what would make the processor wait for the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

ANSWER_READ = "the answer of a check is read from the device"


class Tracer(TorchDispatchMode):
    """Computes as usual what lies on the CPU, traces what lies on the fake GPU, and notes what would wait.

    That is every operation that reads a number from the device, or copies between it and ordinary memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        leaves = tree_leaves((arguments, options))
        given = [value for value in leaves if isinstance(value, Tensor)]
        if not any(
            isinstance(value, FakeTensor) or (isinstance(value, torch.device) and value.type == "cuda") for value in leaves
        ):
            with unset_fake_temporarily():
                return operation(*arguments, **options)
        name = operation.overloadpacket.__name__
        if name in ("_local_scalar_dense", "is_nonzero") and given[0].dtype == torch.bool:
            self.waits.append(ANSWER_READ)
            return True  # what a check asks for, e.g. whether all is finite
        result = operation(*arguments, **options)
        kinds = [tensor.device.type for tensor in (*given, result) if isinstance(tensor, Tensor)]
        if (name in ("_to_copy", "to", "copy_") and len(set(kinds)) > 1) or name in ("_local_scalar_dense", "nonzero", "equal"):
            self.waits.append(f"{name}: {', '.join(kinds)}")
        return result


class FakeCuda:
    """A machine with a GPU that does not exist."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor without values."""
        with self.mode:
            return torch.empty(shape, dtype=dtype, device=CUDA)

    def module(self, module: nn.Module) -> nn.Module:
        """The same module with all parameters and buffers on the GPU; it is changed in place."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(self._like(parameter.data), requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self._like(buffer)
        return module

    def _like(self, tensor: Tensor) -> Tensor:
        return self.tensor(*tensor.shape, dtype=tensor.dtype)

    @contextlib.contextmanager
    def tracing(self, precision: str = "fp32") -> Iterator[list[str]]:
        """Run on the GPU under the autocast of this precision; gives the list that the waits are noted in."""
        tracer = Tracer()
        with self.mode, tracer, torch.autocast("cuda", DTYPES[precision], enabled=precision != "fp32"):
            yield tracer.waits


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """The machine; autocast believes in its GPU."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    return FakeCuda()
