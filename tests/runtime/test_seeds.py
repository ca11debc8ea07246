"""Seeds are pure functions of their four parts, and different for different parts."""

from __future__ import annotations

import itertools

from cdgmae.runtime.seeds import integer_seed, numpy_generator


def test_same_parts_give_the_same_draws_and_other_parts_others() -> None:
    parts = list(itertools.product((0, 1), ("views", "pretrain"), ("a", "b", 0, 1), (0, 1)))
    seeds = [integer_seed(*part) for part in parts]
    assert seeds == [integer_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seed_values_are_the_ones_earlier_versions_drew() -> None:
    """A change here would change every view and every run made before."""
    assert integer_seed(0, "views", "n01440764_10026", 1) == 8717746909320201706
    assert round(float(numpy_generator(3, "pretrain/order", 2).random()), 12) == 0.987412999628
