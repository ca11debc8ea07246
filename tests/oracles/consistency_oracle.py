"""GS, LS and NPS as the paper's equations 1 to 3 read, one number after the other in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of two vectors; 0 if one of them is zero."""
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    norms = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b))
    return dot / norms if norms else 0.0


def local_similarity(x: Sequence[Vector], y: Sequence[Vector]) -> float:
    """Equation 2 for one pair."""
    return math.fsum(cosine(a, b) for a, b in zip(x, y, strict=True)) / len(x)


def nearest_patch_similarity(x: Sequence[Vector], y: Sequence[Vector]) -> float:
    """Equation 3 for one pair, from x to y."""
    return math.fsum(max(cosine(a, b) for b in y) for a in x) / len(x)
