"""Clips: frames by number from video files and folders, and every way in which a clip can be unusable."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdgmae.storage.media.clips import frame_name, open_clip, split_frame_name
from cdgmae.storage.media.images import ImageError

pytest.importorskip("av", reason="video files need PyAV: pip install 'cdgmae[video]'")
import av

from tests.video_files import number_of, write_frames, write_video


def numbers_read(path: Path, *wanted: int) -> list[int]:
    frames = list(open_clip(path).read(wanted))
    assert [frame.number for frame in frames] == sorted(set(wanted))
    assert all(frame.reason is None for frame in frames)
    return [number_of(frame.image) for frame in frames if frame.image is not None]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv", "clip.mov"])
def test_frames_of_a_video_file_are_exact(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 30)
    assert open_clip(path).num_frames == 30
    assert numbers_read(path, 29, 0, 13, 13, 14) == [0, 13, 14, 29]


def test_frames_of_a_folder_are_in_numeric_order(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", 12)
    (folder / "notes.txt").write_text("")
    assert open_clip(folder).num_frames == 12
    assert numbers_read(folder, 11, 1, 9) == [1, 9, 11]


def test_a_cut_video_gives_its_whole_frames_and_a_reason_for_the_rest(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 30, width=320, height=240)
    path.write_bytes(path.read_bytes()[: 7 * path.stat().st_size // 10])
    clip = open_clip(path)
    assert 15 < clip.num_frames < 25
    frames = list(clip.read(range(30)))
    assert [frame.number for frame in frames] == list(range(30))
    good = [frame for frame in frames if frame.image is not None]
    assert len(good) >= 15
    assert [number_of(frame.image) for frame in good if frame.image is not None] == [frame.number for frame in good]
    assert "frames can be decoded" in (frames[-1].reason or "")


def test_what_is_no_clip_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty").mkdir()
    for name, reason in (("text.mp4", "not a readable video"), ("empty", "clip has no frames"), ("gone.mp4", "no such file")):
        with pytest.raises(ImageError, match=reason):
            open_clip(tmp_path / name)
    with pytest.raises(ImageError, match=r"too many pixels \(64x48, the limit is 100\)"):
        open_clip(write_video(tmp_path / "large.mp4", 2), max_pixels=100)


def test_a_playlist_that_calls_itself_a_video_opens_no_other_file(tmp_path: Path) -> None:
    video = write_video(tmp_path / "secret.mp4", 3)
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{video}'\n")
    for name in ("list.mp4", "concat.mp4"):
        with pytest.raises(ImageError, match="not a readable video"):
            open_clip(tmp_path / name)


def test_a_damaged_frame_of_a_folder_is_told_apart(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "clip", 3)
    (folder / "frame_2.png").write_text("no image")
    frames = list(open_clip(folder).read([0, 1, 2]))
    assert [frame.reason is None for frame in frames] == [True, False, True]
    assert isinstance(frames[2].image, Image.Image)


def test_frame_names() -> None:
    assert split_frame_name(frame_name("a!b/c.mp4", 12)) == ("a!b/c.mp4", 12)
    for text in ("a/b.jpg", "a!", "!b", ""):
        with pytest.raises(ValueError, match="names no frame"):
            split_frame_name(text)


def test_a_video_is_turned_as_players_turn_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4", 3)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)  # a quarter clockwise
    path.write_bytes(content)
    frame = next(iter(open_clip(path).read([2]))).image
    assert frame is not None
    assert frame.size == (48, 64)


def test_tags_in_another_encoding_and_streams_without_a_width_stop_no_other_clip(tmp_path: Path) -> None:
    path = tmp_path / "latin.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf\u00e9"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace("caf\u00e9".encode(), b"caf\xe9\xe9"))
    assert open_clip(path).num_frames == 1
    mutated = bytearray(write_video(tmp_path / "video.mp4", 5).read_bytes())
    rng = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(mutated)
        for place in rng.integers(0, len(damaged), 40):
            damaged[place] = rng.integers(256)
        (tmp_path / f"{trial}.mp4").write_bytes(damaged)
        with suppress(ImageError):  # any other error would stop a whole shard
            list(open_clip(tmp_path / f"{trial}.mp4").read([0, 4]))
