"""Source kind video: later frames of the drawn one, at SiamMAE's gap or consecutive, as bags that scoring and pre-training read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.packing import write_dataset
from cdgmae.storage.bags import Bags
from cdgmae.storage.image_shards import BAD, OK, ImageShard
from cdgmae.storage.media.clips import split_frame_name
from cdgmae.views.gathering.clip_frames import later_frames, read_clips
from cdgmae.views.sources.video import ClipViews, FrameSettings
from tests.generators.conftest import write_shard

pytest.importorskip("av", reason="video files need PyAV: pip install 'cdgmae[video]'")
from tests.video_files import number_of, write_frames, write_video

NAMES = ("run", "jump", "swim", "walk")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for name in NAMES[:-1]:
        write_video(root / f"{name}.mp4", 30)
    write_frames(root / NAMES[-1], 6)
    return root


def pack(root: Path, output: Path, frames_after: int = 12) -> Path:
    values = {"path": str(root), "layout": "clips", "resize": "center_crop", "image_size": 24, "frames_after": frames_after}
    write_dataset(DatasetSettings.from_plain(values), 0, output, num_shards=1, threads=1)
    return output / "00000.tar"


def settings(root: Path, **changes: object) -> ClipViews:
    return ClipViews.from_plain({"path": str(root), "resize": "center_crop", "image_size": 24, **changes})


def frames_of(shard: ImageShard) -> dict[str, list[int]]:
    """Numbers of the frames of every bag in the order of view_index, as the pixels show them."""
    found: dict[str, list[int]] = {}
    for row in shard.rows(OK):
        image = Image.open(io.BytesIO(shard.read(row)))
        assert image.size == (24, 24)
        assert number_of(image) == split_frame_name(row.source_path or "")[1]
        found.setdefault(row.key, []).append(number_of(image))
    return found


def test_views_are_later_frames_at_the_drawn_distances(clips: Path, tmp_path: Path) -> None:
    real = pack(clips, tmp_path / "shards")
    first = {key: numbers[0] for key, numbers in frames_of(ImageShard(real)).items()}
    result = read_clips(settings(clips, num_views=3, frame_gap=[2, 12]), 0, real, tmp_path / "views.tar", threads=2)
    later = frames_of(ImageShard(tmp_path / "views.tar"))
    assert (result["clips"], result["views"], result["bad"], result["short_bags"]) == (4, 12, 0, 0)
    assert set(later) == set(NAMES)
    for key, numbers in later.items():
        distances = [number - first[key] for number in numbers]
        assert distances == sorted(set(distances))
        assert all(2 <= distance <= 12 for distance in distances)
    read_clips(settings(clips, num_views=3, frame_gap=[2, 12]), 0, real, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "views.tar").read_bytes()
    read_clips(settings(clips, num_views=3, frame_gap=[2, 12]), 1, real, tmp_path / "other.tar")
    assert frames_of(ImageShard(tmp_path / "other.tar")) != later


def test_consecutive_frames_make_bags_for_video_pairs(clips: Path, tmp_path: Path) -> None:
    real = pack(clips, tmp_path / "shards")
    result = read_clips(settings(clips, num_views=12, frame_step=1), 0, real, tmp_path / "views.tar")
    first, later = frames_of(ImageShard(real)), frames_of(ImageShard(tmp_path / "views.tar"))
    assert all(later[key] == list(range(first[key][0] + 1, first[key][0] + 13)) for key in NAMES[:-1])
    assert later["walk"] == [1, 2, 3, 4, 5]  # a short clip makes a short bag
    assert result["short_bags"] == 1
    store = Bags([real], [tmp_path / "views.tar"]).usable(min_views=1)
    bags = [store.bag(position) for position in range(len(store))]
    assert {bag.key: len(bag.view_indices) for bag in bags} == {"jump": 13, "run": 13, "swim": 13, "walk": 6}
    assert all(set(bag.sizes) == {(24, 24)} for bag in bags)


def test_clips_that_give_no_view_are_rows_with_reasons(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    write_video(root / "long.mp4", 30)
    write_video(root / "short.mp4", 2)
    gone = write_video(root / "gone.mp4", 30)
    real = pack(root, tmp_path / "shards")
    gone.unlink()
    with pytest.raises(
        ValueError, match=r"2 of 3 views are bad.*gone\.1: no such file; short\.1: no frame at the wanted distance"
    ):
        read_clips(settings(root, num_views=1), 0, real, tmp_path / "views.tar")
    assert not (tmp_path / "views.tar").exists()
    read_clips(settings(root, num_views=1, max_bad_fraction=0.9), 0, real, tmp_path / "views.tar")
    bad = [row for row in ImageShard(tmp_path / "views.tar").rows() if row.status == BAD]
    assert [(row.key, row.view_index, row.sampler) for row in bad] == [("gone", 1, "video"), ("short", 1, "video")]


def test_a_shard_of_still_images_is_refused(tmp_path: Path) -> None:
    tar = write_shard(tmp_path / "00000.tar", ["ant"])
    with pytest.raises(ValueError, match=r"ant was not drawn from a clip.*layout `clips`"):
        read_clips(settings(tmp_path), 0, tar, tmp_path / "views.tar")


@given(st.integers(0, 2**63 - 1), st.integers(0, 80), st.integers(1, 80), st.integers(1, 20))
def test_gaps_are_siammaes(seed: int, first: int, after: int, num_views: int) -> None:
    numbers = later_frames(FrameSettings(num_views=num_views), seed, first, first + after + 1)
    possible = [first + gap for gap in range(4, 48) if gap <= after]
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= set(possible)
    assert len(numbers) == min(num_views, len(possible))
