"""Overlays: what is painted, and the files they end up in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_clips import write_davis, write_jhmdb
from PIL import Image

from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.propagation.layouts.jhmdb_layout import read_jhmdb
from cdgmae.propagation.output import overlays
from cdgmae.propagation.output.overlays import CAPTION_HEIGHT, joint_images, label_colours, paint_ids
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings

ON_CPU = RuntimeSettings(device="cpu")
GREY = np.full((40, 60, 3), 100, dtype=np.uint8)


def test_labels_are_coloured_and_the_ground_is_left_alone() -> None:
    ids = np.zeros((40, 60), dtype=np.uint8)
    ids[10:30, 10:30], ids[10:30, 30:50] = 1, 2
    painted = paint_ids(GREY, ids, ids)
    assert (painted[0, 0] == 100).all()
    for column, item in ((20, 1), (40, 2)):
        np.testing.assert_allclose(painted[20, column], 0.45 * 100 + 0.55 * label_colours()[item], atol=1)
    assert len({tuple(colour) for colour in label_colours()[1:22].tolist()}) == 21


def test_errors_are_outlined_unless_thin_or_unlabelled() -> None:
    truth = np.zeros((40, 60), dtype=np.uint8)
    truth[:, 30:], truth[:, 55:] = 1, 255
    thick, thin, nobody = truth.copy(), truth.copy(), truth.copy()
    thick[10:30, 10:30], thin[:, 28:30], nobody[:, 55:] = 1, 1, 0
    white = [(paint_ids(GREY, ids, truth) == 255).all(axis=-1) for ids in (thick, thin, nobody)]
    assert white[0][10:12, 15:25].all()
    assert not white[0][15:25, 15:25].any()
    assert not white[0][:, 31:].any()
    assert not white[1].any()
    assert not white[2].any()


def test_missed_joints_point_to_their_true_place(tmp_path: Path) -> None:
    clip = read_jhmdb(write_jhmdb(tmp_path, ("a",), frames=2))[0]
    truth = np.stack([np.linspace(10, 80, 15), np.linspace(10, 50, 15)])[..., None].repeat(2, axis=2)
    found, moved = np.ones((15, 2), dtype=bool), truth.copy()
    hit = [np.asarray(image) for image in joint_images(clip, moved, found, truth)]
    moved[1, 4, 1] = 60
    missed = [np.asarray(image) for image in joint_images(clip, moved, found, truth)]
    np.testing.assert_array_equal(hit[0], missed[0])
    scale = hit[0].shape[1] / 96
    x, y = round(30 * scale), round((truth[1, 4, 1] + 12) * scale)  # on the way from the true place to the found one
    assert (missed[1][y, x - 2 : x + 3] == 255).all(axis=-1).any()
    assert not (hit[1][y, x - 2 : x + 3] == 255).all(axis=-1).any()


@pytest.mark.parametrize("overlay_format", ["gif", "mp4"])
def test_every_clip_gets_a_video_with_all_its_frames(tmp_path: Path, overlay_format: str) -> None:
    if overlay_format == "mp4":
        av = pytest.importorskip("av", reason="PyAV (the extra `video`) is not installed")
    protocol = DavisProtocol(root=str(write_davis(tmp_path / "clips")), input_size=(64, 96))
    run_propagation(protocol, parse_encoder("pixels:16"), tmp_path / "t.parquet",
        runtime=ON_CPU, overlays=tmp_path / "out", overlay_format=overlay_format,
    )  # fmt: skip
    files = sorted((tmp_path / "out/overlays").iterdir())
    assert [path.name for path in files] == [f"one.{overlay_format}", f"two.{overlay_format}"]
    assert not (tmp_path / "out/masks").exists()
    if overlay_format == "gif":
        with Image.open(files[0]) as image:
            count, size = image.n_frames, image.size
    else:
        with av.open(str(files[0])) as container:
            frames = list(container.decode(video=0))
        count, size = len(frames), (frames[0].width, frames[0].height)
    assert (count, size) == (5, (640, 426 + CAPTION_HEIGHT))


def test_formats_that_cannot_be_written_are_refused_before_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlays.importlib.util, "find_spec", lambda name: None)
    for overlay_format, words in (("mp4", r"pip install cdgmae\[video\]"), ("webm", "allowed are gif, mp4")):
        with pytest.raises(ValueError, match=words):
            run_propagation(DavisProtocol(root="nowhere"), parse_encoder("pixels:16"), tmp_path / "t.parquet",
                runtime=ON_CPU, overlays=tmp_path, overlay_format=overlay_format,
            )  # fmt: skip
