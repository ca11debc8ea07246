"""Bootstrap intervals of mean scores: bags are drawn with replacement, because the views of one bag resemble each other.

Shapes: B bags, M metrics, G groups, R resamples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cdgmae.runtime.seeds import numpy_generator

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
MAX_GROUPS = 2048
"""More bags than this are dealt at random into as many groups, which are drawn instead: the spread of the mean is the same, and
a million bags take no longer than two thousand."""

Floats = npt.NDArray[np.float64]


def mean_intervals(sums_BM: Floats, counts_B: Floats, stream: str) -> Floats:
    """Percentile intervals (2, M), low and high, of the mean over all pairs.

    Args:
        sums_BM: Sum of each metric over the scored pairs of each bag.
        counts_B: Scored pairs of each bag.
        stream: Name of the random stream; equal input gives equal intervals.

    Returns:
        Low and high per metric; not a number if fewer than two bags have a scored pair.
    """
    scored = counts_B > 0
    sums_BM, counts_B = sums_BM[scored], counts_B[scored]
    num_bags, num_metrics = sums_BM.shape
    if num_bags < 2:
        return np.full((2, num_metrics), np.nan)
    generator = numpy_generator(0, "consistency/bootstrap", stream)
    if num_bags > MAX_GROUPS:
        group_of_bag = generator.integers(MAX_GROUPS, size=num_bags)
        counts_B = np.bincount(group_of_bag, counts_B, MAX_GROUPS).astype(np.float64)
        sums_BM = np.stack([np.bincount(group_of_bag, column, MAX_GROUPS) for column in sums_BM.T], axis=1)
    num_groups = len(counts_B)
    draws_RG = generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=NUM_RESAMPLES).astype(np.float64)
    means_RM = (draws_RG @ sums_BM) / np.maximum(draws_RG @ counts_B, 1)[:, None]
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(means_RM, [tail, 1 - tail], axis=0)
