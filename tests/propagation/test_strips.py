"""Strips: which frames they show, what is painted on them, and that they survive an interrupted job."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drawn_clips import write_davis, write_jhmdb, write_vip
from PIL import Image

from cdgmae.commands.propagation import Kind, run
from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.propagation.output.clip_strips import GAP, LONGER_SIDE, strip_frames
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings

ON_CPU = RuntimeSettings(device="cpu")
WRITERS = {"davis": write_davis, "vip": write_vip, "jhmdb": write_jhmdb}


def cells(path: Path, count: int) -> list[np.ndarray]:
    """The images of a strip."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    width = (pixels.shape[1] + GAP) // count - GAP
    return [pixels[:, place * (width + GAP) :][:, :width] for place in range(count)]


def test_first_and_last_frame_and_those_between() -> None:
    assert strip_frames(14) == [0, 3, 6, 10, 13]
    assert strip_frames(100) == [0, 25, 50, 74, 99]
    assert strip_frames(5) == [0, 1, 2, 3, 4]
    assert strip_frames(2) == [0, 1]
    assert strip_frames(1) == [0]


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_every_clip_has_a_strip_and_the_index_names_its_frames(tmp_path: Path, kind: str) -> None:
    root = WRITERS[kind](tmp_path / "clips", ("one", "two"), frames=7)
    protocol = benchmark_of(kind).protocol(root=str(root), input_size=(64, 96), radius=4.0)
    strips, work = tmp_path / "strips", tmp_path / "work"
    run_propagation(protocol, parse_encoder("pixels:8"), tmp_path / "t.parquet", runtime=ON_CPU, work_dir=work, strips=strips)
    assert json.loads((strips / "strips.json").read_text()) == {"one": [0, 2, 3, 4, 6], "two": [0, 2, 3, 4, 6]}
    assert sorted(path.name for path in strips.iterdir()) == ["one.jpg", "strips.json", "two.jpg"]
    for name in ("one", "two"):
        with Image.open(strips / f"{name}.jpg") as image:
            assert image.size == (5 * LONGER_SIDE + 4 * GAP, LONGER_SIDE * 64 // 96)
    assert not work.exists()
    plain = tmp_path / "plain.parquet"
    run_propagation(protocol, parse_encoder("pixels:8"), plain, runtime=ON_CPU)
    assert plain.read_bytes() == (tmp_path / "t.parquet").read_bytes()


def test_only_errors_of_predictions_are_outlined_never_the_given_labels(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "clips", ("one",), frames=5, step=12)
    protocol = DavisProtocol(root=str(root), input_size=(64, 96), radius=1.5, top_k=1)  # the block outruns the radius
    run_propagation(
        protocol,
        parse_encoder("pixels:16"),
        tmp_path / "t.parquet",
        runtime=ON_CPU,
        work_dir=tmp_path / "work",
        strips=tmp_path / "s",
    )
    white = [int((cell.min(axis=-1) > 235).sum()) for cell in cells(tmp_path / "s/one.jpg", 5)]
    assert white[0] == 0
    assert min(white[1:]) > 30


def test_strips_of_finished_clips_survive_an_interruption(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "clips", ("one", "two", "three"), frames=3)
    protocol = DavisProtocol(root=str(root), input_size=(64, 96))
    outputs = {"runtime": ON_CPU, "work_dir": tmp_path / "work", "strips": tmp_path / "strips"}

    def stop(name: str) -> None:
        raise KeyboardInterrupt(name)

    with pytest.raises(KeyboardInterrupt, match="one"):
        run_propagation(protocol, parse_encoder("pixels:16"), tmp_path / "t.parquet", after_clip=stop, **outputs)
    assert not (tmp_path / "strips").exists()
    done: list[str] = []
    run_propagation(protocol, parse_encoder("pixels:16"), tmp_path / "t.parquet", after_clip=done.append, **outputs)
    assert done == ["two", "three"]
    assert sorted(path.stem for path in (tmp_path / "strips").glob("*.jpg")) == ["one", "three", "two"]


def test_the_command_writes_strips_where_the_report_looks_for_them(tmp_path: Path) -> None:
    settings = DavisProtocol(root=str(write_davis(tmp_path / "clips", frames=3)), input_size=(64, 96)).canonical_json()
    run(Kind("davis"), "pixels:16", tmp_path / "out", settings=[settings], strips=True, device="cpu")
    assert len(list((tmp_path / "out/strips/davis").glob("*.jpg"))) == 2
    with pytest.raises(ValueError, match=r"work folder.*--work"):
        run_propagation(
            DavisProtocol(root="x"), parse_encoder("pixels:16"), tmp_path / "t.parquet", runtime=ON_CPU, strips=tmp_path
        )
