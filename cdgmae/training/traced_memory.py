"""What a training step needs of a GPU's memory, and how many samples go through it at once.

The need is traced: the loss is computed once on tensors without values that say they lie on a GPU, here or on a login node without one,
and what is alive at the peak is added up. The backward pass frees more than it takes; what it needs beyond, and what the allocator
cannot use, is in the margin.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from cdgmae.runtime.interrupts import OutOfDeviceMemory

logger = logging.getLogger("cdgmae")

MARGIN = 0.15
"""Share of a GPU's memory that no plan gives away: fragmentation, the backward pass's own tensors, libraries' workspaces."""

CONTEXT_BYTES = 1 << 30
"""What CUDA, its libraries and NCCL take of a GPU before the first tensor."""

BYTES_PER_TRAINED = 20
"""Of a trained parameter: float32 value, gradient, two moments of AdamW, and the gradient's place in DDP's buckets."""

TRACED_SAMPLES = (2, 4)
"""Batch sizes of the two traces, whose difference is the need per sample."""

FLASH_HEAD_DIM = 256
"""Widest attention head that the fused kernels take."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

Batch = Mapping[str, Tensor]
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes of GPU memory of a training step: `fixed`, whatever the micro-batch, and `per_sample` of it."""

    fixed: int
    per_sample: int

    def of(self, samples: int) -> int:
        """Bytes for a micro-batch."""
        return self.fixed + samples * self.per_sample

    def largest_micro_batch(self, device_bytes: int) -> int:
        """Samples that fit into a GPU of so much memory with `MARGIN` to spare; 0 if not one does."""
        return max(0, (int(device_bytes * (1 - MARGIN)) - self.fixed) // self.per_sample)


def fitting_micro_batch(need: MemoryNeed, device: torch.device) -> int:
    """Samples that fit into a GPU at once.

    Raises:
        OutOfDeviceMemory: if not one does.
    """
    total: int = torch.cuda.get_device_properties(device).total_memory
    largest = need.largest_micro_batch(total)
    if not largest:
        raise OutOfDeviceMemory(
            f"one sample of this run needs {need.of(1) / 2**30:.1f} GiB, and {1 - MARGIN:.0%} of this GPU's memory are "
            f"{total * (1 - MARGIN) / 2**30:.1f} GiB; use bf16 precision, a smaller model or a larger GPU, or set "
            "runtime.micro_batch_size to 1 to try it without the margin"
        )
    logger.info(
        "GPU memory: %.0f MiB per sample and %.1f GiB besides, of %.1f GiB; up to %d samples at once",
        need.per_sample / 2**20, need.fixed / 2**30, total / 2**30, largest,
    )  # fmt: skip
    return largest


def trace_memory(model: nn.Module, loss: Loss, batch_of: Callable[[int], Batch], precision: str, *, ema: bool) -> MemoryNeed:
    """The need of a training step of `model` on a GPU.

    Args:
        model: What is trained, on any device, also `meta`; it is left as it is.
        loss: The loss of the model on a batch, as in training.
        batch_of: A batch of so many samples; its shapes and types count.
        precision: `fp32`, `bf16` or `fp16`.
        ema: Whether a moving average of the weights is kept.
    """
    few, many = TRACED_SAMPLES
    batches = {samples: batch_of(samples) for samples in TRACED_SAMPLES}
    peaks = {samples: _traced_peak(model, loss, batch, precision) for samples, batch in batches.items()}
    step_per_sample = (peaks[many] - peaks[few]) // (many - few)
    next_batch = sum(tensor.nbytes for tensor in batches[many].values()) // many  # copied while a step computes
    weights = [*model.parameters(), *model.buffers()]
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    values = sum(tensor.numel() for tensor in weights)
    fixed = CONTEXT_BYTES + trained * BYTES_PER_TRAINED + 4 * (values - trained) + (4 * values if ema else 0)
    return MemoryNeed(fixed + peaks[few] - few * step_per_sample, step_per_sample + next_batch)


def _traced_peak(model: nn.Module, loss: Loss, batch: Batch, precision: str) -> int:
    """Bytes alive at the peak of the forward pass, with all that the backward pass waits for; the weights do not count."""
    step = _Step(model, loss)
    with FakeTensorMode(allow_non_fake_inputs=True):
        weights = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda").requires_grad_(tensor.requires_grad)
            for name, tensor in [*step.named_parameters(), *step.named_buffers()]
        }
        with _Autocast(precision), _FusedAttention(), _LiveBytes(weights.values()) as live:
            inputs = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda") for name, tensor in batch.items()}
            result = torch.func.functional_call(step, weights, (inputs,))
    del result  # until here it holds what the backward pass would need
    peak: int = live.peak
    return peak


class _Step(nn.Module):
    """The loss as a module, so that it can be computed with other weights than its own."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.loss(self.model, batch)


class _Autocast:
    """Autocast on CUDA also where there is none, which `torch.autocast` refuses."""

    def __init__(self, precision: str) -> None:
        self._dtype = AUTOCAST.get(precision)

    def __enter__(self) -> None:
        self._before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        torch.set_autocast_enabled("cuda", self._dtype is not None)
        torch.set_autocast_dtype("cuda", self._dtype or self._before[1])

    def __exit__(self, *_: object) -> None:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", self._before[0])
        torch.set_autocast_dtype("cuda", self._before[1])


class _FusedAttention(TorchFunctionMode):
    """Attention by the fused kernel that a GPU takes; without one torch would choose the plain products, which keep far more."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].shape[-1] <= FLASH_HEAD_DIM and kwargs.get("attn_mask") is None:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args[:3], kwargs.get("dropout_p", 0.0))[0]
        return func(*args, **kwargs)


class _LiveBytes(TorchDispatchMode):
    """Adds up the memory of all tensors that are made while it is on, until they are freed.

    Attributes:
        peak: Most bytes alive at one time.
    """

    def __init__(self, uncounted: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: Any = WeakIdKeyDictionary()
        for tensor in uncounted:
            self._known[tensor.untyped_storage()] = True
        self._live, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor) and tensor.is_cuda:
                self._count(tensor.untyped_storage())
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known[storage] = True
            self._live += storage.nbytes()
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self._live -= size
