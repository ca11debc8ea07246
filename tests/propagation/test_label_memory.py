"""The streaming memory against the literal protocol: padded queue, full affinity, every duplicate a key of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.engine import label_memory as memory_module
from cdgmae.propagation.engine.context import context_frames, disc_mask, first_frame_copies, query_tiles
from cdgmae.propagation.engine.label_memory import LabelMemory
from cdgmae.propagation.engine.top_k import fill_slots, largest, vote_weights
from tests.oracles import propagation_oracle as oracle


def run_both(seed: int, grid: tuple[int, int], frames: int, **protocol: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all frames by the memory and by the oracle, on random features and soft labels."""
    rng = np.random.default_rng(seed)
    cells = grid[0] * grid[1]
    features = rng.standard_normal((frames, cells, 6)) + rng.standard_normal((cells, 6))  # frames resemble each other
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    first = rng.random((cells, 3))
    settings_ = DavisProtocol(root="clips", **protocol)
    tensors = torch.from_numpy(features)
    memory = LabelMemory(tensors[0], torch.from_numpy(first), grid, settings_)
    streamed = np.stack([first, *(memory.propagate(tensor).numpy() for tensor in tensors[1:])])
    return streamed, oracle.literal_propagation(features, first, grid, **protocol)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), grid=st.tuples(st.integers(1, 7), st.integers(1, 7)), frames=st.integers(2, 9), top_k=st.integers(1, 9),
    queue_length=st.integers(1, 6), radius=st.sampled_from([0.5, 1.0, 2.0, 2.5, 4.0, 20.0]), temperature=st.sampled_from([0.05, 0.7]),
)  # fmt: skip
def test_streaming_equals_the_literal_protocol(seed: int, grid: tuple[int, int], frames: int, **protocol: float) -> None:
    streamed, literal = run_both(seed, grid, frames, **protocol)
    np.testing.assert_allclose(streamed, literal, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000), frames=st.integers(2, 9), restrict_first_frame=st.booleans(), restart_every=st.integers(0, 5),
    queue_length=st.integers(1, 4), radius=st.sampled_from([1.0, 2.5, 20.0]),
)  # fmt: skip
def test_restriction_of_frame_0_and_restarts_equal_their_literal_statement(seed: int, frames: int, **protocol: float) -> None:
    streamed, literal = run_both(seed, (4, 6), frames, top_k=5, temperature=0.7, **protocol)
    np.testing.assert_allclose(streamed, literal, atol=1e-9)


def test_a_restart_after_every_frame_copies_straight_from_frame_0() -> None:
    rng = np.random.default_rng(0)
    features = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((4, 12, 5))), dim=-1)
    protocol = DavisProtocol(root="clips", restart_every=1)
    memory = LabelMemory(features[0], torch.eye(12, dtype=torch.float64), (3, 4), protocol)
    together = [memory.propagate(frame) for frame in features[1:]]
    alone = [
        LabelMemory(features[0], torch.eye(12, dtype=torch.float64), (3, 4), protocol).propagate(frame) for frame in features[1:]
    ]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


def test_streaming_equals_the_literal_protocol_over_several_tiles_and_frame_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "MAX_AFFINITIES", {"cpu": 60_000})
    streamed, literal = run_both(3, (19, 34), 5, top_k=7, queue_length=3, radius=6.0, temperature=0.7)
    np.testing.assert_allclose(streamed, literal, atol=1e-9)


@given(frame=st.integers(1, 60), queue_length=st.integers(1, 25))
def test_copies_of_frame_0_are_those_of_the_literal_context(frame: int, queue_length: int) -> None:
    context = context_frames(frame, queue_length)
    assert len(context) == queue_length + 1
    assert context[1:].count(0) == first_frame_copies(frame, queue_length)
    assert context[-1] == frame - 1
    assert sorted(set(context[1:]) - {0}) == list(range(max(1, frame - queue_length), frame))


def test_first_query_sees_frame_0_everywhere_and_nothing_else() -> None:
    assert context_frames(1, 20) == [0] * 21


def test_disc_excludes_its_rim() -> None:
    cells = torch.arange(25)
    inside = disc_mask(torch.tensor([12]), cells[None], 5, 2.0).reshape(5, 5)
    assert inside.int().tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


@settings(max_examples=25, deadline=None)
@given(grid=st.tuples(st.integers(1, 40), st.integers(1, 40)), radius=st.floats(0.1, 45))
def test_tiles_cover_every_query_once_and_every_key_in_reach(grid: tuple[int, int], radius: float) -> None:
    tiles = query_tiles(grid, radius, torch.device("cpu"))
    assert sorted(torch.cat([tile.queries_Q for tile in tiles]).tolist()) == list(range(grid[0] * grid[1]))
    for tile in tiles:
        everywhere = disc_mask(tile.queries_Q, torch.arange(grid[0] * grid[1])[None], grid[1], radius)
        assert torch.equal(tile.inside_Qn.sum(dim=1), everywhere.sum(dim=1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), length=st.integers(1, 2000), count=st.integers(1, 12))
def test_grouped_search_finds_the_largest_values(seed: int, rows: int, length: int, count: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, length)))
    found, places = largest(values, count)
    assert torch.equal(found, values.topk(min(count, length), dim=1).values)
    assert torch.equal(values.gather(1, places), found)


def test_copies_fill_the_slots_in_descending_affinity() -> None:
    assert fill_slots(torch.tensor([[3, 1, 5], [9, 9, 9], [1, 1, 1]]), 6).tolist() == [[3, 1, 2], [6, 0, 0], [1, 1, 1]]


def test_softmax_runs_over_the_selected_slots_only() -> None:
    affinity, copies = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[2, 1, 1]])
    expected = torch.softmax(torch.tensor([0.9, 0.9, 0.5]) / 0.7, dim=0)
    weights = vote_weights(affinity, copies, 3, 0.7)[0]
    torch.testing.assert_close(weights, torch.tensor([expected[:2].sum(), expected[2], 0.0]))


def test_labels_stay_soft_and_are_not_renormalised() -> None:
    features = torch.eye(4)
    memory = LabelMemory(features, torch.full((4, 2), 0.25), (2, 2), DavisProtocol(root="clips", top_k=2))
    torch.testing.assert_close(memory.propagate(features), torch.full((4, 2), 0.25))
