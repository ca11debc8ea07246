"""Top-k over keys that may count several times, and the softmax over what was selected (spec label_propagation 3.4).

Shapes: Q queries, K keys, S candidates (distinct keys kept per query).
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_COUNT = 16
"""Long rows are searched in two passes: the maxima of groups of this many keys first, then the winning groups."""


def largest(values_QK: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values of each row in descending order and their positions; all of them if the row is shorter.

    Equal to `torch.topk`, but several times faster on long rows: a value among the `count` largest lies in one of the `count`
    groups with the largest maxima, so only those are sorted. Group g holds the keys g, g + G, g + 2G, ...
    """
    length = values_QK.shape[1]
    groups = length // BLOCK_COUNT
    if groups < 4 * count:
        top = values_QK.topk(min(count, length), dim=1)
        return top.values, top.indices
    grouped = values_QK[:, : groups * BLOCK_COUNT].unflatten(1, (BLOCK_COUNT, groups))
    winners = grouped.amax(dim=1).topk(count, dim=1).indices
    offsets = torch.arange(BLOCK_COUNT, device=values_QK.device) * groups
    candidates = (winners[:, :, None] + offsets).flatten(1)
    rest = torch.arange(groups * BLOCK_COUNT, length, device=values_QK.device).expand(len(values_QK), -1)
    candidates = torch.cat([candidates, rest], dim=1)
    top = values_QK.gather(1, candidates).topk(count, dim=1)
    return top.values, candidates.gather(1, top.indices)


def fill_slots(copies_QS: Tensor, top_k: int) -> Tensor:
    """How many of the k slots each candidate takes when candidates in descending affinity count `copies` times each.

    Example: copies (3, 1, 5) with k = 6 take (3, 1, 2) slots.
    """
    before_QS = copies_QS.cumsum(dim=1) - copies_QS
    return (top_k - before_QS).clamp_min(0).minimum(copies_QS)


def vote_weights(affinity_QS: Tensor, copies_QS: Tensor, top_k: int, temperature: float) -> Tensor:
    """Weights of the candidates: softmax of affinity / temperature over the k selected slots only, copies summed.

    Args:
        affinity_QS: Cosine similarities in descending order; -inf marks a key outside the disc, which gets no weight.
        copies_QS: How often each candidate stands in the context, >= 1.
        top_k: Number of slots.
        temperature: Softmax temperature.

    Returns:
        Float (Q, S), each row sums to 1.
    """
    slots_QS = fill_slots(copies_QS, top_k)
    relative_QS = (affinity_QS - affinity_QS[:, :1]) / temperature
    votes_QS = slots_QS * relative_QS.exp()
    return votes_QS / votes_QS.sum(dim=1, keepdim=True)
