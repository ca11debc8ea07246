"""Points followed through clips: TAP-Vid's measures and PCK against literal loops, files in JSON, and the published pickle without executing it."""

from __future__ import annotations

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from drawn_clips import HEIGHT, WIDTH, draw_frame, save_image
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.propagation.benchmarks.key_points import ALPHAS, KeyPointProtocol, KeyPoints
from cdgmae.propagation.benchmarks.tap_vid import TapVid, TapVidProtocol
from cdgmae.propagation.engine.frames import embed_frames
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.propagation.layouts.labelled_clip import LayoutError
from cdgmae.propagation.tracks.tap_vid_pickle import read_pickled_videos
from cdgmae.propagation.tracks.tracking import locate_points, point_labels
from cdgmae.settings.encoder import EncoderSettings, VitSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.tables import table_metadata
from tests.oracles.tap_vid_oracle import literal_tap_vid, literal_track

ON_CPU = RuntimeSettings(device="cpu")
SMALL_VIT = EncoderSettings(random=VitSettings(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2))
SETTINGS: dict[str, Any] = {"input_size": (64, 96), "top_k": 3, "queue_length": 2, "radius": 4.0}
STARTS = (0, 0, 1, 2)
FRAMES = 5


def drawn_tracks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (4, 5, 2) in pixels that move with the block, and whether each is visible; one is never visible."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(4, 28, (4, 1, 2)) + [8, 16] + np.arange(FRAMES)[None, :, None] * [8, 0]
    visible = np.arange(FRAMES) >= np.array(STARTS)[:, None]
    visible[0, 3] = False
    return np.append(points, points[:1], axis=0), np.append(visible, np.zeros((1, FRAMES), bool), axis=0)


def write_points(root: Path, names: tuple[str, ...] = ("one", "two"), **size: float) -> Path:
    for seed, name in enumerate(names):
        for frame in range(FRAMES):
            save_image(root / f"frames/{name}/{frame:05d}.png", draw_frame(seed, 8 + 8 * frame, 16)[0])
        points, visible = drawn_tracks(seed)
        rows = [
            {"frame": frame, "point": f"p{point}", "x": x, "y": y, "visible": bool(visible[point, frame]), **size}
            for point in range(len(points))
            for frame, (x, y) in enumerate(points[point].tolist())
        ]
        path = root / f"points/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    return root


def literal_positions(root: Path, name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (4, 5, 2) in the unit square and cosines of the points that are ever visible."""
    encoder = load_encoder(SMALL_VIT, device=torch.device("cpu"))
    files = sorted((root / f"frames/{name}").iterdir())
    features = np.stack([one.double().numpy() for one in embed_frames(files, (64, 96), encoder, torch.device("cpu"))])
    protocol = {"top_k": 3, "queue_length": 2, "radius": 4.0, "temperature": 0.7}
    points, _ = drawn_tracks(seed)
    found = [
        literal_track(features, (8, 12), *(points[point, start] / [WIDTH, HEIGHT]), start, **protocol)
        for point, start in enumerate(STARTS)
    ]
    return np.stack([positions for positions, _ in found]), np.stack([cosines for _, cosines in found])


def test_tap_vid_equals_literal_loops(tmp_path: Path) -> None:
    root = write_points(tmp_path / "points")
    threshold = 0.9
    protocol = TapVidProtocol(root=str(root), visible_above=threshold, **SETTINGS)
    scores = run_propagation(protocol, SMALL_VIT, tmp_path / "tap.parquet", runtime=ON_CPU, save_predictions=tmp_path / "out")
    rows = pq.read_table(tmp_path / "tap.parquet").to_pylist()
    assert table_metadata(tmp_path / "tap.parquet")["encoder_cost"]["patch_size"] == 8
    expected = []
    for seed, name in enumerate(("one", "two")):
        (truth, visible), (unit, cosines) = drawn_tracks(seed), literal_positions(root, name, seed)
        shown = cosines >= threshold
        assert len(set(shown[:, 3:].ravel())) == 2, cosines
        expected.append(literal_tap_vid(truth[:4] / [WIDTH, HEIGHT] * 256, visible[:4], unit * 256, shown))
        assert {key: rows[seed][key] for key in expected[-1]} == pytest.approx(expected[-1])
        tracks = pq.read_table(tmp_path / f"out/tracks/{name}.parquet").to_pylist()
        assert len(tracks) == sum(FRAMES - start for start in STARTS)
        for row in tracks:
            point = int(row["point"][1:])
            assert (row["x"] / WIDTH, row["y"] / HEIGHT) == pytest.approx(tuple(unit[point, row["frame"]]), abs=1e-5)
            assert row["similarity"] == pytest.approx(cosines[point, row["frame"]], abs=1e-5)
    assert scores["position accuracy"] == pytest.approx(
        100 * np.mean([[video[f"within_{d}"] for d in (1, 2, 4, 8, 16)] for video in expected])
    )
    assert scores["average Jaccard"] == pytest.approx(
        100 * np.mean([[video[f"jaccard_{d}"] for d in (1, 2, 4, 8, 16)] for video in expected])
    )
    assert 0 < scores["position accuracy"] < 100


@pytest.mark.parametrize("normaliser", ["box_diagonal", "box_side", "size", 30.0])
def test_pck_equals_literal_loops(tmp_path: Path, normaliser: Any) -> None:
    root = write_points(tmp_path / "points", size=21.0)
    protocol = KeyPointProtocol(root=str(root), normaliser=normaliser, **SETTINGS)
    scores = run_propagation(protocol, SMALL_VIT, tmp_path / "t.parquet", runtime=ON_CPU)
    for alpha in ALPHAS:
        hits, seen = [0] * 4, [0] * 4
        for seed, name in enumerate(("one", "two")):
            (truth, visible), (unit, _) = drawn_tracks(seed), literal_positions(root, name, seed)
            for frame in range(FRAMES):
                xs, ys = zip(*[truth[point, frame] for point in range(4) if visible[point, frame]], strict=True)
                sides = (max(xs) - min(xs), max(ys) - min(ys))
                length = {"box_diagonal": 0.6 * math.hypot(*sides), "box_side": max(sides), "size": 21.0}.get(
                    normaliser, normaliser
                )
                for point in range(4):
                    if visible[point, frame] and frame > STARTS[point]:
                        seen[point] += 1
                        hits[point] += math.dist(unit[point, frame] * [WIDTH, HEIGHT], truth[point, frame]) <= alpha * length
        assert scores[f"key point PCK@{alpha}"] == pytest.approx(100 * np.mean(np.array(hits) / seen))


def test_a_point_is_found_where_it_is_given() -> None:
    points = torch.tensor([[0.3, 0.55], [0.51, 0.2], [0.94, 0.9]], dtype=torch.float64)
    labels = point_labels(points, (10, 12))
    assert labels.sum(dim=0).tolist() == pytest.approx([1, 1, 1])
    assert torch.allclose(locate_points(labels, (10, 12))[1], points)


def test_points_that_move_with_whole_patches_are_followed(tmp_path: Path) -> None:
    root = write_points(tmp_path / "points")
    protocol = TapVidProtocol(root=str(root), input_size=(64, 96), top_k=1, queue_length=2)
    scores = run_propagation(protocol, EncoderSettings(pixels=8), tmp_path / "t.parquet", runtime=ON_CPU)
    assert scores["within 2 px"] > 90


def test_the_published_pickle_becomes_a_set_that_goes_through_the_command(tmp_path: Path) -> None:
    points, visible = drawn_tracks(0)
    video = np.stack([draw_frame(0, 8 + 8 * frame, 16)[0] for frame in range(FRAMES)])
    content = {"goat": {"video": video, "points": (points / [WIDTH, HEIGHT]).astype(np.float32), "occluded": ~visible}}
    source = tmp_path / "tapvid_davis.pkl"
    for protocol in (2, 4, pickle.HIGHEST_PROTOCOL):
        source.write_bytes(pickle.dumps(content, protocol=protocol))
        read = read_pickled_videos(source)["goat"]
        assert all(np.array_equal(read[key], content["goat"][key]) for key in content["goat"])
    done = CliRunner().invoke(app, ["propagation", "prepare-tap-vid", str(source), "--output", str(tmp_path / "tap"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) | {"output": ""} == {"videos": 1, "points": 5, "frames": FRAMES, "output": ""}
    direct, converted = write_points(tmp_path / "direct", ("one",)), tmp_path / "tap"
    scores = []
    for root in (direct, converted):
        result = CliRunner().invoke(
            app,
            ["propagation", "run", "tap_vid", "--root", str(root), "--settings", "input_size=64x96", "--encoder", "pixels:8", "--strips",
             "--overlays", "gif", "--output", str(tmp_path / "results"), "--device", "cpu", "--json"],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        scores.append(json.loads(result.stdout.splitlines()[-1]))
    assert scores[0] == pytest.approx(scores[1])
    for file in ("strips/tap_vid/goat.jpg", "overlays/goat.gif"):
        assert (tmp_path / "results" / file).is_file()


class _Command:
    def __reduce__(self) -> Any:
        return os.system, ("echo executed",)


class _Fallback:
    def __reduce__(self) -> Any:
        return eval, ("__import__('os').getpid()",)


@pytest.mark.parametrize("attack", [_Command(), {"goat": {"video": _Fallback()}}, {"../up": {}}, {"goat": np.array([{}])}, []])
def test_a_pickle_that_asks_for_more_than_arrays_is_refused(
    tmp_path: Path, attack: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(attack))
    with pytest.raises(ValueError, match=r"evil\.pkl: (cannot be read|video|holds)"):
        read_pickled_videos(path)
    assert "executed" not in capfd.readouterr().out


FAULTS = {
    "a row lacks y": ([{"frame": 0, "point": "p", "x": 1, "visible": True}], r"one\.json: row 0 lacks y"),
    "a frame that is not there": ([{"frame": 9, "point": "p", "x": 1, "y": 1, "visible": True}], r"frame = 9, but the clip has frames 0 to 4"),
    "twice": ([{"frame": 0, "point": "p", "x": 1, "y": 1, "visible": True}] * 2, r"point 'p' stands twice in frame 0"),
    "never followed": ([{"frame": 4, "point": "p", "x": 1, "y": 1, "visible": True}], r"nothing to measure"),
    "no number": ([{"frame": 0, "point": "p", "x": "a", "y": 1, "visible": True}], r"expected numbers in pixels"),
    "no list": ({}, r"holds dict, expected a list of points"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_files_are_named(tmp_path: Path, fault: str) -> None:
    root = write_points(tmp_path, ("one",))
    content, words = FAULTS[fault]
    (root / "points/one.json").write_text(json.dumps(content))
    with pytest.raises(LayoutError, match=words):
        TapVid().read(TapVidProtocol(root=str(root)))


@pytest.mark.parametrize(
    ("column", "words"), [("point", "text of more than"), ("x", "text of more than"), ("rows", "rows, at most")]
)
def test_a_small_table_of_points_that_unfolds_without_end_is_refused(tmp_path: Path, column: str, words: str) -> None:
    root, rows = write_points(tmp_path, ("one",)), 3_000_000 if column == "rows" else 100_000
    (root / "points/one.json").unlink()
    plain = {"frame": pa.repeat(0, rows), "point": pa.repeat("p", rows), "x": pa.repeat(1.0, rows), "y": pa.repeat(1.0, rows)}
    text = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), ["p" * 1_000_000])
    table = pa.table({**plain, "visible": pa.repeat(True, rows), **({column: text} if column != "rows" else {})})
    pq.write_table(table, root / "points/one.parquet", store_schema=False, compression="zstd")
    with pytest.raises(LayoutError, match=words):
        TapVid().read(TapVidProtocol(root=str(root)))


def test_a_size_that_is_needed_and_not_given_is_named(tmp_path: Path) -> None:
    protocol = KeyPointProtocol(root=str(write_points(tmp_path, ("one",))), normaliser="size", input_size=(64, 96))
    with pytest.raises(ValueError, match=r"one\.json: normaliser = size, but no point of frame 1 has a size"):
        run_propagation(protocol, EncoderSettings(pixels=8), tmp_path / "t.parquet", runtime=ON_CPU)
    assert KeyPoints().headline.name == "key point PCK@0.2"
