"""Properties of GS, LS and NPS, and equality with the double-precision loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cdgmae.consistency.scoring.similarities import global_similarity, local_similarity, nearest_patch_similarity, nearest_patches
from tests.oracles import consistency_oracle as oracle

VALUES = st.floats(-8, 8, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5))


@st.composite
def token_pairs(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    shape = draw(SHAPES)
    x, y = (draw(hnp.arrays(np.float32, shape, elements=VALUES)) for _ in range(2))
    return torch.from_numpy(x), torch.from_numpy(y)


def nonzero(tokens_PND: torch.Tensor) -> torch.Tensor:
    """Tokens with a constant added where a token is the zero vector, which has no direction."""
    return tokens_PND + (tokens_PND.norm(dim=-1, keepdim=True) == 0)


@given(token_pairs())
@settings(deadline=None, max_examples=60)
def test_scores_equal_the_double_precision_loop(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x_PND, y_PND = pair
    nps, nps_reverse = nearest_patch_similarity(x_PND, y_PND)
    ls, gs = local_similarity(x_PND, y_PND), global_similarity(x_PND[:, 0], y_PND[:, 0])
    for index, (x, y) in enumerate(zip(x_PND.double().tolist(), y_PND.double().tolist(), strict=True)):
        assert gs[index] == pytest.approx(oracle.cosine(x[0], y[0]), abs=1e-5)
        assert ls[index] == pytest.approx(oracle.local_similarity(x, y), abs=1e-5)
        assert nps[index] == pytest.approx(oracle.nearest_patch_similarity(x, y), abs=1e-5)
        assert nps_reverse[index] == pytest.approx(oracle.nearest_patch_similarity(y, x), abs=1e-5)


@given(token_pairs())
@settings(deadline=None, max_examples=60)
def test_a_view_is_wholly_similar_to_itself(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x_PND = nonzero(pair[0])
    ones = torch.ones(x_PND.shape[0])
    for value in (
        global_similarity(x_PND[:, 0], x_PND[:, 0]),
        local_similarity(x_PND, x_PND),
        *nearest_patch_similarity(x_PND, x_PND),
    ):
        torch.testing.assert_close(value, ones, rtol=0, atol=1e-5)
        assert value.max() <= 1  # whatever rounding adds


@given(token_pairs())
@settings(deadline=None, max_examples=60)
def test_nearest_patch_is_at_least_as_near_as_the_patch_in_place_and_all_scores_are_cosines(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    x_PND, y_PND = pair
    ls = local_similarity(x_PND, y_PND)
    for nps in nearest_patch_similarity(x_PND, y_PND):
        assert (nps >= ls - 1e-5).all()
        assert (nps.abs() <= 1 + 1e-4).all()
    assert (ls.abs() <= 1 + 1e-4).all()


@given(token_pairs(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_moving_patches_leaves_nps_alone(pair: tuple[torch.Tensor, torch.Tensor], random: object) -> None:
    x_PND, y_PND = pair
    order = list(range(y_PND.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    for moved, still in zip(
        nearest_patch_similarity(x_PND, y_PND[:, order]), nearest_patch_similarity(x_PND, y_PND), strict=True
    ):
        torch.testing.assert_close(moved, still, rtol=0, atol=1e-6)


@given(token_pairs())
@settings(deadline=None, max_examples=60)
def test_nearest_patches_are_those_whose_similarities_nps_averages(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x_PND, y_PND = pair
    nearest_PN, similarity_PN = nearest_patches(x_PND, y_PND)
    matched_PND = y_PND.gather(1, nearest_PN[..., None].expand_as(y_PND))
    torch.testing.assert_close(local_similarity(x_PND, matched_PND), nearest_patch_similarity(x_PND, y_PND)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(similarity_PN.mean(dim=1), nearest_patch_similarity(x_PND, y_PND)[0], rtol=0, atol=1e-6)


def test_moving_patches_lowers_ls() -> None:
    x_PND = torch.eye(4)[None]
    assert local_similarity(x_PND, x_PND.roll(1, dims=1)).item() == 0.0
    assert nearest_patch_similarity(x_PND, x_PND.roll(1, dims=1))[0].item() == 1.0


def test_directions_of_nps_differ_and_swap() -> None:
    x_PND, y_PND = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    forward, reverse = nearest_patch_similarity(x_PND, y_PND)
    assert (forward.item(), reverse.item()) == (0.5, 1.0)
    assert [value.item() for value in nearest_patch_similarity(y_PND, x_PND)] == [1.0, 0.5]


@pytest.mark.parametrize("bound", [1, 5, 30, 1000])
def test_memory_bound_does_not_change_the_result(bound: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x_PND, y_PMD = torch.randn(4, 6, 8, generator=generator), torch.randn(4, 5, 8, generator=generator)
    for bounded, free in zip(
        nearest_patch_similarity(x_PND, y_PMD, max_similarities=bound), nearest_patch_similarity(x_PND, y_PMD), strict=True
    ):
        torch.testing.assert_close(bounded, free, rtol=0, atol=1e-6)


def test_no_pairs_give_no_scores() -> None:
    empty_PND = torch.empty(0, 3, 2)
    assert [value.shape for value in nearest_patch_similarity(empty_PND, empty_PND)] == [(0,), (0,)]
    assert local_similarity(empty_PND, empty_PND).shape == (0,)


def test_views_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        local_similarity(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="equal pairs and widths"):
        nearest_patch_similarity(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="2 dimensions"):
        global_similarity(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
