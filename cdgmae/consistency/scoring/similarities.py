"""Global, local and nearest-patch similarity of view pairs (paper, section 3.2, equations 1 to 3).

Pure functions of an encoder's tokens, batched over pairs. All are cosine similarities in -1..1, what rounding adds cut off; a zero vector
has similarity 0 to everything. Shapes: P pairs, T tokens (CLS first), N patches, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SIMILARITIES = 1 << 24
"""Largest similarity matrix held at once, in numbers (64 MiB as float32): 436 pairs of 14x14 patches, 27 pairs of 28x28."""


def pair_similarities(x_PTD: Tensor, y_PTD: Tensor) -> Tensor:
    """The four scores (P, 4) of view pairs, in the order of the table's columns: gs, ls, nps, nps_reverse.

    Args:
        x_PTD: An encoder's tokens of the first views, CLS first.
        y_PTD: Those of the second views.

    Raises:
        ValueError: if the two shapes differ.
    """
    gs, ls = global_similarity(x_PTD[:, 0], y_PTD[:, 0]), local_similarity(x_PTD[:, 1:], y_PTD[:, 1:])
    return torch.stack([gs, ls, *nearest_patch_similarity(x_PTD[:, 1:], y_PTD[:, 1:])], dim=1)


def global_similarity(cls_x_PD: Tensor, cls_y_PD: Tensor) -> Tensor:
    """GS (P,): cosine of the global embeddings, the CLS tokens (equation 1).

    Raises:
        ValueError: if the two shapes differ.
    """
    _check_shapes(cls_x_PD, cls_y_PD, dimensions=2)
    return (F.normalize(cls_x_PD, dim=-1) * F.normalize(cls_y_PD, dim=-1)).sum(dim=-1).clamp(-1, 1)


def local_similarity(tokens_x_PND: Tensor, tokens_y_PND: Tensor) -> Tensor:
    """LS (P,): mean over positions of the cosine between the patch tokens at that position (equation 2).

    Raises:
        ValueError: if the two shapes differ.
    """
    _check_shapes(tokens_x_PND, tokens_y_PND, dimensions=3)
    return (F.normalize(tokens_x_PND, dim=-1) * F.normalize(tokens_y_PND, dim=-1)).sum(dim=-1).mean(dim=-1).clamp(-1, 1)


def nearest_patch_similarity(
    tokens_x_PND: Tensor, tokens_y_PND: Tensor, *, max_similarities: int = MAX_SIMILARITIES
) -> tuple[Tensor, Tensor]:
    """NPS in both directions: each patch's largest cosine to any patch of the other view, averaged (equation 3).

    Args:
        tokens_x_PND: Patch tokens of view x.
        tokens_y_PND: Patch tokens of view y; may hold another number of patches.
        max_similarities: Bound on the numbers of one similarity matrix; the result does not depend on it.

    Returns:
        (nps, nps_reverse), each (P,): over x's patches the nearest of y, and over y's patches the nearest of x.

    Raises:
        ValueError: if numbers of pairs or widths differ.
    """
    _check_pairs(tokens_x_PND, tokens_y_PND)
    x_PND, y_PND = F.normalize(tokens_x_PND, dim=-1), F.normalize(tokens_y_PND, dim=-1)
    pairs_at_once = max(1, max_similarities // (x_PND.shape[1] * y_PND.shape[1]))
    patches_at_once = max(1, max_similarities // y_PND.shape[1])
    forward, reverse = [], []
    for start in range(0, max(1, x_PND.shape[0]), pairs_at_once):
        part = slice(start, start + pairs_at_once)
        nearest_of_x, nearest_of_y = _nearest(x_PND[part], y_PND[part], patches_at_once)
        forward.append(nearest_of_x.mean(dim=-1))
        reverse.append(nearest_of_y.mean(dim=-1))
    return torch.cat(forward).clamp(-1, 1), torch.cat(reverse).clamp(-1, 1)


def nearest_patches(tokens_x_PND: Tensor, tokens_y_PND: Tensor) -> tuple[Tensor, Tensor]:
    """The patch of y with the largest cosine to each patch of x, in the order of the tokens (row by row).

    The first of equally near ones is taken. Meant for a few pairs: the similarity matrices of all of them are held.

    Returns:
        (numbers, similarities), each (P, N): y's patch as int64, and the cosine to it, whose mean over N is the NPS.

    Raises:
        ValueError: if numbers of pairs or widths differ.
    """
    _check_pairs(tokens_x_PND, tokens_y_PND)
    x_PND, y_PND = F.normalize(tokens_x_PND, dim=-1), F.normalize(tokens_y_PND, dim=-1)
    largest = (x_PND @ y_PND.transpose(1, 2)).max(dim=2)
    return largest.indices, largest.values.clamp(-1, 1)


def _nearest(x_PND: Tensor, y_PMD: Tensor, patches_at_once: int) -> tuple[Tensor, Tensor]:
    """Largest cosine of every patch of x (P, N) and of y (P, M), walking over x in strips of patches."""
    rows: list[Tensor] = []
    columns_PM = x_PND.new_full((x_PND.shape[0], y_PMD.shape[1]), -torch.inf)
    for start in range(0, x_PND.shape[1], patches_at_once):
        similarity_PRM = x_PND[:, start : start + patches_at_once] @ y_PMD.transpose(1, 2)
        rows.append(similarity_PRM.amax(dim=2))
        columns_PM = torch.maximum(columns_PM, similarity_PRM.amax(dim=1))
    return torch.cat(rows, dim=1), columns_PM


def _check_shapes(x: Tensor, y: Tensor, dimensions: int) -> None:
    if x.ndim != dimensions or x.shape != y.shape:
        raise ValueError(_mismatch(x, y, f"equal shapes of {dimensions} dimensions"))


def _check_pairs(x: Tensor, y: Tensor) -> None:
    if x.ndim != 3 or y.ndim != 3 or x.shape[::2] != y.shape[::2]:
        raise ValueError(_mismatch(x, y, "equal pairs and widths"))


def _mismatch(x: Tensor, y: Tensor, allowed: str) -> str:
    return (
        f"views of shapes {tuple(x.shape)} and {tuple(y.shape)} cannot be compared: {allowed} are needed; embed both views alike"
    )
