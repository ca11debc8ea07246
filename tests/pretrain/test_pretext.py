"""Which views are drawn and how they are cropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cdgmae.pretrain.crops import CropBox, draw_crop, take_crop
from cdgmae.pretrain.pretext import choose_views, make_sample
from cdgmae.settings.pretrain import PretrainRunSettings

SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 2}


def numbered(size: int = 64) -> Image.Image:
    """A picture in which every pixel is different: red = column, green = row."""
    columns, rows = np.meshgrid(np.arange(size), np.arange(size))
    return Image.fromarray(np.stack([columns * 3, rows * 3, np.full_like(rows, 7)], axis=-1).astype(np.uint8))


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), width=st.integers(1, 700), height=st.integers(1, 700), low=st.floats(0.05, 1.0))
def test_crops_lie_inside_the_picture(seed: int, width: int, height: int, low: float) -> None:
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
    large = np.asarray(take_crop(numbered(64), box, 16), dtype=float)
    small = np.asarray(take_crop(numbered(64).resize((32, 32), Image.Resampling.BOX), box, 16), dtype=float)
    assert np.abs(large - small).mean() < 3


def test_target_and_anchors_are_distinct_and_cover_the_bag() -> None:
    run = PretrainRunSettings(**SMALL, num_anchors=2)
    drawn = [choose_views(run, np.random.default_rng(seed), [1, 2, 3, 4]) for seed in range(300)]
    assert all(len(set(views)) == 3 for views in drawn)
    assert {views[0] for views in drawn} == {0, 1, 2, 3, 4}
    assert {index for views in drawn for index in views[1:]} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("choice", "targets"), [("real", {0}), ("generated", {1, 2})])
def test_target_view_choice_is_kept(choice: str, targets: set[int]) -> None:
    run = PretrainRunSettings(**SMALL, num_anchors=1, target_view=choice)  # type: ignore[arg-type]
    assert {choose_views(run, np.random.default_rng(seed), [1, 2])[0] for seed in range(60)} == targets


def test_shared_crop_is_the_same_for_all_views_and_independent_crops_are_not() -> None:
    for shared in (True, False):
        run = PretrainRunSettings(**SMALL, num_anchors=1, shared_crop=shared)
        samples = [make_sample(run, np.random.default_rng(seed), [1], lambda _: numbered()) for seed in range(8)]
        equal = [np.array_equal(np.asarray(target), np.asarray(anchor)) for target, anchor in samples]
        assert all(equal) if shared else not any(equal)


def crop_run(strategy: str) -> PretrainRunSettings:
    return PretrainRunSettings(
        **SMALL, pretext="crops", num_anchors=1, crop_strategy=strategy, global_crop_scale=(0.9, 1.0), local_crop_scale=(0.2, 0.25)  # type: ignore[arg-type]
    )  # fmt: skip


def spread(image: Image.Image) -> float:
    """Range of columns shown: large for a global crop, small for a local one."""
    return float(np.ptp(np.asarray(image)[..., 0].astype(float)))


def test_crop_strategies_say_which_crop_is_the_anchor() -> None:
    for seed in range(5):
        target, anchor = make_sample(crop_run("global_to_local"), np.random.default_rng(seed), [], lambda _: numbered())
        assert spread(anchor) > 1.4 * spread(target)
        target, anchor = make_sample(crop_run("local_to_global"), np.random.default_rng(seed), [], lambda _: numbered())
        assert spread(target) > 1.4 * spread(anchor)
        target, anchor = make_sample(crop_run("same_views"), np.random.default_rng(seed), [], lambda _: numbered())
        assert np.array_equal(np.asarray(target), np.asarray(anchor))
        target, anchor = make_sample(crop_run("random_views"), np.random.default_rng(seed), [], lambda _: numbered())
        assert not np.array_equal(np.asarray(target), np.asarray(anchor))
        assert min(spread(target), spread(anchor)) > 120
