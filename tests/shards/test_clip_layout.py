"""Data sets of clips: one drawn frame per clip, the same whatever the shards, with room for later frames."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.listing import list_images
from cdgmae.shards.packing import write_dataset
from cdgmae.storage.image_shards import BAD, OK, ImageRow, ImageShard
from cdgmae.storage.media.clips import split_frame_name

pytest.importorskip("av", reason="video files need PyAV: pip install 'cdgmae[video]'")
from tests.video_files import number_of, write_frames, write_video


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    root = tmp_path / "clips"
    for name in ("run", "jump", "swim"):
        write_video(root / "sports" / f"{name}.mp4", 30)
    write_frames(root / "frames" / "walk", 10)
    return root


def settings(root: Path, **changes: object) -> DatasetSettings:
    values = {"path": str(root), "layout": "clips", "resize": "shorter_side", "image_size": 24, "frames_after": 20}
    return DatasetSettings.from_plain({**values, **changes})


def pack(root: Path, output: Path, num_shards: int = 1, seed: int = 0, **changes: object) -> dict[str, ImageRow]:
    write_dataset(settings(root, **changes), seed, output, num_shards=num_shards, threads=2)
    rows: dict[str, ImageRow] = {}
    for tar in sorted(output.glob("*.tar")):
        shard = ImageShard(tar)
        for row in shard.rows():
            rows[row.key] = row
            if row.status == OK:
                _, number = split_frame_name(row.source_path or "")
                image = Image.open(io.BytesIO(shard.read(row)))
                assert number_of(image) == number
                assert image.size == (32, 24)
    return rows


def test_clips_are_listed_with_their_folder_as_class(clips: Path) -> None:
    table = list_images(settings(clips)).to_pylist()
    found = [(row["key"], row["source_path"], row["class_name"]) for row in table]
    assert found == [
        ("walk", "frames/walk", "frames"),
        ("jump", "sports/jump.mp4", "sports"),
        ("run", "sports/run.mp4", "sports"),
        ("swim", "sports/swim.mp4", "sports"),
    ]


def test_the_drawn_frame_leaves_room_and_does_not_depend_on_shards(clips: Path, tmp_path: Path) -> None:
    one, two = pack(clips, tmp_path / "one"), pack(clips, tmp_path / "two", num_shards=2)
    firsts = {key: split_frame_name(row.source_path or "") for key, row in one.items()}
    assert {key: split_frame_name(row.source_path or "") for key, row in two.items()} == firsts
    assert firsts["walk"] == ("frames/walk", 0)  # too short for 20 frames after it
    assert all(number < 10 for _, number in firsts.values())
    draws = [
        split_frame_name(row.source_path or "")[1]
        for seed in range(4)
        for row in pack(clips, tmp_path / f"s{seed}", seed=seed).values()
    ]
    assert len(set(draws)) > 4


def test_bad_clips_are_rows_with_reasons(clips: Path, tmp_path: Path) -> None:
    (clips / "sports" / "text.mp4").write_text("no video")
    rows = pack(clips, tmp_path / "packed", max_bad_fraction=0.5)
    assert [(row.key, row.reason) for row in rows.values() if row.status == BAD] == [
        ("text", "not a readable video (Invalid data found when processing input)")
    ]
    with pytest.raises(ValueError, match="max_bad_fraction"):
        pack(clips, tmp_path / "strict")


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"holds no clips: neither video files \(\.avi"):
        list_images(settings(tmp_path))
