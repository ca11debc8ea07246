"""Which views are drawn and how they are cropped."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cdgmae.pretrain.pretext import choose_frames, choose_views, plan_sample
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.bags import Bag
from cdgmae.storage.media.crop_boxes import CropBox, SamplePlan, draw_crop
from cdgmae.storage.media.images import center_crop

SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 2}


def bag_of(*sizes: tuple[int, int]) -> Bag:
    return Bag("key", range(len(sizes)), list(range(len(sizes))), list(sizes), None)


def plan(run: PretrainRunSettings, seed: int, bag: Bag) -> SamplePlan:
    return plan_sample(run, np.random.default_rng(seed), bag)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), width=st.integers(1, 700), height=st.integers(1, 700), low=st.floats(0.05, 1.0))
def test_crops_lie_inside_the_image(seed: int, width: int, height: int, low: float) -> None:
    box = draw_crop(np.random.default_rng(seed), (width, height), (low, 1.0), (0.75, 4 / 3))
    left, top, right, bottom = box.pixels((width, height))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_crop_areas_and_ratios_follow_the_distribution() -> None:
    generator = np.random.default_rng(0)
    boxes = [draw_crop(generator, (1000, 1000), (0.3, 0.6), (0.75, 4 / 3)) for _ in range(4000)]
    areas = np.array([box.width * box.height for box in boxes])
    ratios = np.log([box.width / box.height for box in boxes])
    assert areas.min() > 0.295
    assert areas.max() < 0.605
    assert areas.mean() == pytest.approx(0.45, abs=0.01)
    assert abs(ratios.mean()) < 0.02
    assert np.abs(ratios).max() <= np.log(4 / 3) + 0.01


def test_central_crop_when_nothing_fits() -> None:
    box = draw_crop(np.random.default_rng(0), (400, 20), (0.9, 1.0), (0.75, 4 / 3))
    assert box.pixels((400, 20)) == (186, 0, 213, 20)


def test_one_relative_box_cuts_the_same_content_from_views_of_two_sizes() -> None:
    box = CropBox(0.25, 0.5, 0.5, 0.25)
    assert box.pixels((64, 64)) == (16, 32, 48, 48)
    assert box.pixels((128, 32)) == (32, 16, 96, 24)


def test_target_and_anchors_are_distinct_and_cover_the_bag() -> None:
    run = PretrainRunSettings(**SMALL, num_anchors=2)
    drawn = [choose_views(run, np.random.default_rng(seed), 5) for seed in range(300)]
    assert all(len(set(views)) == 3 for views in drawn)
    assert {views[0] for views in drawn} == {0, 1, 2, 3, 4}
    assert {index for views in drawn for index in views[1:]} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("choice", "targets"), [("real", {0}), ("generated", {1, 2})])
def test_target_view_choice_is_kept(choice: str, targets: set[int]) -> None:
    run = PretrainRunSettings(**SMALL, num_anchors=1, target_view=choice)  # type: ignore[arg-type]
    assert {choose_views(run, np.random.default_rng(seed), 3)[0] for seed in range(60)} == targets


@pytest.mark.parametrize("target_view", ["random", "real", "generated"])
def test_weighted_views_are_drawn_one_after_the_other_in_proportion(target_view: str) -> None:
    run = PretrainRunSettings(**SMALL, num_anchors=1, target_view=target_view)  # type: ignore[arg-type]
    weights = np.array([1.0, 0.5, 0.25], np.float32)
    generator, drawn, expected = np.random.default_rng(0), np.zeros((3, 3)), np.zeros((3, 3))
    for _ in range(20_000):
        target, anchor = choose_views(run, generator, 3, weights)
        drawn[target, anchor] += 1 / 20_000
    targets = {"random": [0, 1, 2], "real": [0], "generated": [1, 2]}[target_view]
    for target in targets:
        for anchor in {0, 1, 2} - {target}:
            share = weights[anchor] / (weights.sum() - weights[target])
            expected[target, anchor] = weights[target] / weights[targets].sum() * share
    np.testing.assert_allclose(drawn, expected, atol=0.015)


def test_frames_of_a_clip_have_every_gap_of_the_range_and_stay_inside() -> None:
    run = PretrainRunSettings(**SMALL, pretext="video_pairs")
    for count, gaps in ((2, {1}), (4, {3}), (9, {4, 5, 6, 7, 8}), (60, set(range(4, 48)))):
        drawn = [choose_frames(run, np.random.default_rng(seed), count) for seed in range(1500)]
        assert {target - anchor for target, anchor in drawn} == gaps
        assert min(anchor for _, anchor in drawn) == 0
        assert max(target for target, _ in drawn) == count - 1
    starts = [choose_frames(run, np.random.default_rng(seed), 5)[1] for seed in range(200)]
    assert set(starts) == {0}
    with pytest.raises(ValueError, match="at least two frames"):
        choose_frames(run, np.random.default_rng(0), 1)


def test_frames_share_one_crop_and_one_flip() -> None:
    run = PretrainRunSettings(**SMALL, pretext="video_pairs", frame_gap=(1, 2))
    plans = [plan(run, seed, bag_of(*[(64, 48)] * 6)) for seed in range(40)]
    assert all(drawn.regions[0] == drawn.regions[1] and drawn.flips[0] == drawn.flips[1] for drawn in plans)
    assert {drawn.flips[0] for drawn in plans} == {True, False}
    assert {drawn.images[0] - drawn.images[1] for drawn in plans} == {1, 2}


def test_shared_crop_is_the_same_for_all_views_and_independent_crops_are_not() -> None:
    for shared in (True, False):
        run = PretrainRunSettings(**SMALL, num_anchors=1, shared_crop=shared)
        plans = [plan(run, seed, bag_of((64, 64), (64, 64))) for seed in range(8)]
        equal = [drawn.regions[0] == drawn.regions[1] for drawn in plans]
        assert all(equal) if shared else not any(equal)


@pytest.mark.parametrize("size", [(61, 40), (40, 75), (40, 40), (97, 40)])
@pytest.mark.parametrize("shared", [True, False])
def test_a_perfect_generator_s_views_are_cropped_where_the_real_image_is(size: tuple[int, int], shared: bool) -> None:
    """Its views are the real image's central square: under one crop all views are equal pixels, whichever is the target."""
    real = Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    views = [np.asarray(real), *[np.asarray(center_crop(real, 40))] * 2]
    bag = bag_of(size, (40, 40), (40, 40))
    run = PretrainRunSettings(**SMALL, num_anchors=2, shared_crop=shared, views_show="central_square")
    for seed in range(40):
        drawn = plan(run, seed, bag)
        cut = [
            views[place][box.top : box.bottom, box.left : box.right]
            for place, box in zip(drawn.images, drawn.regions, strict=True)
        ]
        if shared:
            assert all(np.array_equal(cut[0], other) for other in cut[1:])
        box = drawn.regions[drawn.images.index(0)]
        inside = np.array(box).reshape(2, 2) - np.round((np.array(size) - 40) / 2)
        assert inside.min() >= 0
        assert inside.max() <= 40
    whole = [plan(run.model_copy(update={"views_show": None}), seed, bag) for seed in range(40)]
    assert (whole == [plan(run, seed, bag) for seed in range(40)]) == (size == (40, 40))


def test_a_shared_crop_is_relative_to_views_of_different_sizes() -> None:
    run = PretrainRunSettings(**SMALL, num_anchors=1, target_view="real")
    large, small = plan(run, 3, bag_of((640, 320), (64, 32))).regions
    np.testing.assert_allclose(np.array(large) / 10, small, atol=0.51)


def test_crops_of_a_clip_come_from_another_frame_every_epoch() -> None:
    bag = bag_of((64, 48), (60, 40), (40, 40))
    drawn: dict[str, list[SamplePlan]] = {}
    for target_view in ("real", "random"):
        run = PretrainRunSettings(**SMALL, pretext="crops", target_view=target_view)
        drawn[target_view] = [plan(run, seed, bag) for seed in range(300)]
    for one in drawn["random"]:
        assert len(set(one.images)) == 1
        assert all(box.left >= 0 and box.right <= bag.sizes[one.images[0]][0] for box in one.regions)
    counts = np.bincount([one.images[0] for one in drawn["random"]], minlength=3)
    assert scipy.stats.chisquare(counts).pvalue > 0.01
    assert drawn["real"] == [plan(PretrainRunSettings(**SMALL, pretext="crops"), seed, bag_of((64, 48))) for seed in range(300)]


def crop_run(strategy: str) -> PretrainRunSettings:
    return PretrainRunSettings(
        **SMALL, pretext="crops", num_anchors=1, crop_strategy=strategy, global_crop_scale=(0.9, 1.0), local_crop_scale=(0.2, 0.25)  # type: ignore[arg-type]
    )  # fmt: skip


def test_crop_strategies_say_which_crop_is_the_anchor() -> None:
    whole, bag = (0, 0, 32, 32), bag_of((64, 64))
    for seed in range(5):
        target, anchor = plan(crop_run("global_to_local"), seed, bag).nested or []
        assert anchor == whole
        assert target.right - target.left < 20
        target, anchor = plan(crop_run("local_to_global"), seed, bag).nested or []
        assert target == whole
        assert anchor.right - anchor.left < 20
        same = plan(crop_run("same_views"), seed, bag)
        assert (len(same.regions), same.nested, same.flips[0]) == (1, None, same.flips[1])
        two = plan(crop_run("random_views"), seed, bag)
        assert two.regions[0] != two.regions[1]
        assert min(box.right - box.left for box in two.regions) > 50
    flips = {tuple(plan(crop_run("global_to_local"), seed, bag).flips) for seed in range(40)}
    assert len(flips) == 4


@pytest.mark.parametrize("strategy", ["global_to_local", "random_views", "same_views"])
def test_a_mixed_run_draws_crops_in_its_share_and_views_otherwise_in_one_form(strategy: str) -> None:
    """Crops are those of the pretext of that name and views those of a run without crops, apart from the draw that chooses."""
    mixed = crop_run(strategy).model_copy(update={"pretext": "cross_view", "crop_share": 0.25})
    bag, whole, crops = bag_of((64, 64), (64, 64), (64, 64)), [(0, 0, 32, 32)] * 2, 0
    for seed in range(400):
        drawn, generator = plan(mixed, seed, bag), np.random.default_rng(seed)
        of_crops = generator.random() < 0.25
        run = crop_run(strategy) if of_crops else mixed.model_copy(update={"crop_share": 0.0})
        alone = plan_sample(run, generator, bag)
        assert (drawn.flips, drawn.nested) == (alone.flips, alone.nested or whole)
        assert drawn.regions == alone.regions * (2 // len(alone.regions))
        assert drawn.images == ([0, 0] if of_crops else alone.images)
        crops += of_crops
    assert 70 < crops < 130
    with pytest.raises(ValueError, match="mixes crop pairs into"):
        PretrainRunSettings(**SMALL, num_anchors=3, crop_share=0.25)
