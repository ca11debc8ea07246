"""Reading a checkpoint of the original latent diffusion code, and keeping account of every key in it.

Such files are training states: beside the weights they hold objects of the training framework. Those are replaced by inert
placeholders; nothing in the file is ever imported or run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from cdgmae.models.encoders.checkpoint_files import CheckpointError, read_content
from cdgmae.storage.files.atomic import write_text

SHOWN = 6
"""Keys of each kind that an error message shows; the report file has all of them."""


class ImportRefused(ValueError):
    """A checkpoint was not converted; the message says why and where the full report is."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint: `.safetensors`, or a torch file with it at `state_dict`, `model` or the top level.

    Raises:
        ImportRefused: if the file cannot be read, would need code from elsewhere, or holds no state dict.
    """
    try:
        content, _ = read_content(path)
    except CheckpointError as error:
        raise ImportRefused(str(error)) from None
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ImportRefused(f"{path} holds no state dict (looked at the top level and under state_dict, model)")
    wrapped = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if wrapped else key: tensor for key, tensor in content.items()}


class KeyLedger:
    """Every key of a checkpoint: matched with a parameter, missing, of another shape, ignored for a reason, or unexpected."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state
        self.matched: dict[str, str] = {}
        self.ignored: dict[str, str] = {}
        self.missing: list[str] = []
        self.reshaped: list[str] = []

    @property
    def unexpected(self) -> list[str]:
        """Keys that nothing asked for."""
        return [key for key in self.state if key not in self.matched and key not in self.ignored]

    def has(self, prefix: str) -> bool:
        """Whether any key starts so."""
        return any(key.startswith(prefix) for key in self.state)

    def fill(self, part: str, module: nn.Module, key_of: Callable[[str], str]) -> None:
        """Give a module (on the meta device) its weights.

        Args:
            part: What the module is, for the report.
            module: Filled in place if all of its keys are there.
            key_of: The checkpoint's name of a parameter.
        """
        tensors = {name: self.take(key_of(name), f"{part}.{name}", expected) for name, expected in module.state_dict().items()}
        whole = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        if len(whole) == len(tensors):
            module.load_state_dict(whole, strict=True, assign=True)

    def take(self, key: str, target: str, expected: Tensor) -> Tensor | None:
        """One tensor in the shape and type of `expected`; None, and an entry in the report, if it is not there or does not fit."""
        tensor = self.state.get(key)
        if tensor is None:
            self.missing.append(f"{key} (for {target})")
            return None
        self.matched[key] = target
        if tensor.ndim == 4 and expected.ndim == 2 and tensor.shape[2:] == (1, 1):  # a 1x1 convolution is a linear layer here
            tensor = tensor.flatten(1)
        if tensor.shape != expected.shape:
            self.reshaped.append(f"{key}: {list(self.state[key].shape)} instead of {list(expected.shape)} (for {target})")
            return None
        return tensor.to(expected.dtype).contiguous()

    def ignore(self, prefixes: dict[str, str]) -> None:
        """Leave out unused keys that start with a prefix, for the reason given with it."""
        for key in self.unexpected:
            reason = next((reason for prefix, reason in prefixes.items() if key.startswith(prefix)), None)
            if reason is not None:
                self.ignored[key] = reason

    def counts(self) -> dict[str, int]:
        """How many keys of each kind."""
        kinds = ("matched", "ignored", "missing", "reshaped", "unexpected")
        return {kind: len(getattr(self, kind)) for kind in kinds}

    def write(self, path: Path) -> None:
        """Write the whole report as JSON."""
        lists = {kind: getattr(self, kind) for kind in ("matched", "ignored", "missing", "reshaped", "unexpected")}
        write_text(path, json.dumps({"counts": self.counts(), **lists}, indent=1) + "\n")

    def check_complete(self, path: Path, report: Path) -> None:
        """Refuse a partial match.

        Raises:
            ImportRefused: if a key is missing, has another shape or is unexpected; the report is written to `report` first.
        """
        problems = {kind: getattr(self, kind) for kind in ("missing", "reshaped", "unexpected") if getattr(self, kind)}
        if not problems:
            return
        self.write(report)
        listed = "; ".join(
            f"{len(keys)} {kind}: {', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''}"
            for kind, keys in problems.items()
        )
        raise ImportRefused(
            f"{path} does not match its configuration: {len(self.matched)} keys matched, {listed}. All keys are in {report}. "
            "Check that --config belongs to this file; keys that are known to be of no use can be named with --settings 'ignore=[PREFIX]'."
        )
