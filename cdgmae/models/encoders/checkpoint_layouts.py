"""Where the weights lie in a checkpoint, in one pass that says what it assumed: which sub-dictionary, which prefix, averaged or raw.

Whatever the pass cannot know can be said: `key`, `prefix` and `num_heads` of `EncoderSettings`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdgmae.models.encoders.checkpoint_files import CheckpointError, read_content
from cdgmae.settings.encoder import EncoderSettings

logger = logging.getLogger("cdgmae")

AVERAGED_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher", "target_encoder")
"""Sub-dictionaries of averaged weights, which published evaluations use; preferred to raw ones."""

RAW_KEYS = ("model", "state_dict", "model_state_dict", "module", "student", "encoder", "net", "network", "params")

PATCH_KERNEL = "patch_embed.proj.weight"
"""The entry that every Vision Transformer has, by which the prefix of its keys is found."""

WRAPPERS = ("module.", "_orig_mod.", "backbone.", "encoder.")
"""Prefixes that training puts before the keys of a network without `PATCH_KERNEL`."""

PREFERRED_PREFIXES = ("teacher", "target_encoder", "ema", "base_encoder", "student")
"""Words in prefixes, best first, where a file holds several encoders under one dictionary."""

MOCO_V3_PREFIX = "base_encoder."
MOCO_V3_HEADS = 12

HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Heads of timm's, DeiT's, MAE's and DINO's networks by width: 64 channels each but for the widest."""

AMBIGUOUS_WIDTH = 384
"""MoCo-v3's ViT-S has 12 heads at this width, all others 6."""

MAE_OR_DINO = ("mask_token", "decoder_embed.", "head.mlp.", "dino_head.")
"""Entries that only networks with the usual number of heads have beside their encoder."""

LISTED_KEYS = 8
"""Keys of one kind that a message lists before it only counts them."""


@dataclass(slots=True)
class CheckpointWeights:
    """The weights of a checkpoint file.

    Attributes:
        state: State dict without prefix.
        header: What the header of this package's own files says.
        num_heads: Heads per block, where file or user say it; None where they do not.
    """

    state: dict[str, Tensor]
    header: dict[str, str]
    num_heads: int | None = None


def read_weights(path: Path, choice: EncoderSettings | None = None) -> CheckpointWeights:
    """The weights of a checkpoint file, found in any usual layout.

    Args:
        path: `.safetensors`, or a torch file.
        choice: `key`, `prefix` and `num_heads` are used.

    Raises:
        CheckpointError: if the file cannot be read safely, holds no state dict or several that only the user can choose from, or
            a value is not finite.
    """
    content, header = read_content(path)
    weights = CheckpointWeights({}, header, num_heads=choice.num_heads if choice else None)
    tensors, key = _sub_dictionary(path, content, choice.key if choice else None)
    usual = key in ("teacher", "student") or any(
        name.startswith(MAE_OR_DINO) or any(f".{part}" in name for part in MAE_OR_DINO) for name in tensors
    )
    weights.state = _without_prefix(path, tensors, choice.prefix if choice else None, weights)
    width = weights.state[PATCH_KERNEL].shape[0] if PATCH_KERNEL in weights.state else 0
    if weights.num_heads is None and usual:
        weights.num_heads = HEADS_BY_WIDTH.get(width)
    check_finite(path, weights.state)
    return weights


def check_finite(origin: Path | str, state: Mapping[str, Tensor]) -> None:
    """Refuse weights of which any value is NaN or infinite.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{origin}: tensor {name} holds values that are NaN or infinite; copy the file again or train anew"
            )


def infer_heads(path: Path, width: int) -> int:
    """The number of heads that the usual networks of this width have.

    Raises:
        CheckpointError: if networks of this width differ, or none is known.
    """
    remedy = f"give it: --encoder '{path}?num_heads=N', or num_heads in the configuration"
    if width == AMBIGUOUS_WIDTH:
        raise CheckpointError(
            f"{path}: no tensor shows the number of heads, and networks of width {width} have 6 (DINO, DeiT, MAE, timm) or 12 (MoCo-v3): {remedy}"
        )
    if width not in HEADS_BY_WIDTH:
        raise CheckpointError(f"{path}: width {width} is not a standard ViT's, so its number of heads is unknown; {remedy}")
    return HEADS_BY_WIDTH[width]


def log_assumption(path: Path, assumption: str) -> None:
    """Say what was taken for granted about a file; the user can choose otherwise."""
    logger.info("checkpoint %s: assumed %s", path, assumption)


def listed(keys: Sequence[str]) -> str:
    """Some keys, and how many more there are."""
    more = f" and {len(keys) - LISTED_KEYS} more" if len(keys) > LISTED_KEYS else ""
    return f"{list(keys[:LISTED_KEYS])}{more}"


def _sub_dictionary(path: Path, content: Any, key: str | None) -> tuple[dict[str, Tensor], str | None]:
    """The dictionary that holds the weights, and its key: the user's choice, else averaged before raw before the top level."""
    if key is not None:
        value = content
        for part in key.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        tensors = _tensors(value)
        if not tensors:
            raise CheckpointError(
                f"{path} holds no weights at key {key!r}; keys with weights: {', '.join(_keys_with_weights(content)) or 'none'}"
            )
        return tensors, key
    there = [name for name in (*AVERAGED_KEYS, *RAW_KEYS) if isinstance(content, dict) and _deep_tensors(content.get(name))]
    if there:
        taken = there[0]
        if len(there) > 1:
            kind = "averaged weights" if taken in AVERAGED_KEYS else "weights"
            log_assumption(
                path, f"{kind} `{taken}`, although {', '.join(f'`{name}`' for name in there[1:])} are there too (choose with key)"
            )
        return _deep_tensors(content[taken]), taken
    tensors = _tensors(content)
    if not tensors:
        looked = "looked at the top level and under " + ", ".join((*AVERAGED_KEYS, *RAW_KEYS))
        value = f"; found {listed(tuple(map(str, content)))}" if isinstance(content, dict) else ""
        raise CheckpointError(f"{path} holds no state dict ({looked}){value}; say where it is with key")
    return tensors, None


def _deep_tensors(value: Any) -> dict[str, Tensor]:
    """The tensors of a dictionary or of the one that it wraps, e.g. `state_dict` inside `model`."""
    for name in RAW_KEYS:
        if isinstance(value, dict) and isinstance(value.get(name), dict) and _tensors(value[name]):
            return _tensors(value[name])
    return _tensors(value)


def _tensors(value: Any) -> dict[str, Tensor]:
    """The tensors of a dictionary; counters and other things among them are no weights."""
    return {str(key): tensor for key, tensor in value.items() if isinstance(tensor, Tensor)} if isinstance(value, dict) else {}


def _keys_with_weights(content: Any) -> list[str]:
    return [str(name) for name, value in content.items() if _deep_tensors(value)] if isinstance(content, dict) else []


def _without_prefix(path: Path, tensors: dict[str, Tensor], prefix: str | None, weights: CheckpointWeights) -> dict[str, Tensor]:
    """The entries below the encoder's prefix, which is cut off; entries beside it belong to other networks."""
    prefixes = sorted({name.removesuffix(PATCH_KERNEL) for name in tensors if name.endswith(PATCH_KERNEL)})
    if prefix is not None:
        if not any(name.startswith(prefix) for name in tensors):
            raise CheckpointError(f"{path} has no entry that begins with prefix {prefix!r}; prefixes of its encoders: {prefixes}")
    elif not prefixes:  # another kind of network, or none: only what training wraps around is taken off
        return {_unwrapped(name): tensor for name, tensor in tensors.items()}
    else:
        prefix = _choose_prefix(path, prefixes)
        if len(prefixes) > 1:
            log_assumption(path, f"encoder `{prefix}` of {prefixes} (choose with prefix)")
    if prefix.endswith(MOCO_V3_PREFIX) and weights.num_heads is None:
        weights.num_heads = MOCO_V3_HEADS
        log_assumption(path, f"{MOCO_V3_HEADS} heads, as MoCo-v3's networks have (choose with num_heads)")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _choose_prefix(path: Path, prefixes: list[str]) -> str:
    if len(prefixes) == 1:
        return prefixes[0]
    for word in PREFERRED_PREFIXES:
        if matching := [prefix for prefix in prefixes if word in prefix]:
            return matching[0]
    if "" in prefixes:
        return ""
    raise CheckpointError(f"{path} holds several encoders, with prefixes {prefixes}; say which one with prefix")


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name
