"""MATLAB files are read as SciPy reads them; damaged and hostile ones end in a sentence, within little memory."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from cdgmae.propagation.layouts.matlab_files import read_arrays
from cdgmae.propagation.measures.joints import read_joints

ARRAYS = {
    "pos_img": np.random.default_rng(0).normal(size=(2, 15, 7)) * 100,
    "scale": np.arange(7, dtype=np.int32),
    "one": np.array([[3.5]]),
    "single": np.ones((2, 3), np.float32),
    "bytes": np.arange(3, dtype=np.uint8)[None],
}


@pytest.mark.parametrize("compressed", [False, True])
def test_numeric_arrays_are_those_that_scipy_reads(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "joints.mat"
    scipy.io.savemat(path, {**ARRAYS, "text": "run", "cell": np.array(["a", 1], dtype=object)}, do_compression=compressed)
    theirs, ours = scipy.io.loadmat(path), read_arrays(path)
    assert set(ours) == {*ARRAYS, "text", "cell"}
    assert ours["text"] is None
    assert ours["cell"] is None
    for name in ARRAYS:
        found = ours[name]
        assert found is not None
        assert np.array_equal(found, theirs[name])
    assert np.array_equal(read_joints(path), ARRAYS["pos_img"] - 1)


def test_a_small_file_that_expands_to_gigabytes_is_refused_in_little_memory(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(1 << 30), 9)
    header = b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    (tmp_path / "bomb.mat").write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    del packed
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.mat cannot be read \(compressed data that is .* larger than"):
        read_joints(tmp_path / "bomb.mat")
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_end_in_one_sentence(tmp_path: Path, compressed: bool) -> None:
    scipy.io.savemat(tmp_path / "whole.mat", ARRAYS, do_compression=compressed)
    whole, rng, refused = (tmp_path / "whole.mat").read_bytes(), np.random.default_rng(0), 0
    for trial in range(300):
        damaged = bytearray(whole if trial % 3 else whole[: rng.integers(len(whole))])
        for place in rng.integers(0, max(1, len(damaged)), 8):
            damaged[place : place + 1] = bytes([rng.integers(256)])
        (tmp_path / "damaged.mat").write_bytes(damaged)
        try:
            assert read_joints(tmp_path / "damaged.mat").shape[:2] == (2, 15)
        except ValueError as error:
            refused += 1
            assert "damaged.mat" in str(error)  # noqa: PT017 - either way is fine, a crash is not
    assert refused > 100


@pytest.mark.parametrize("shape", [(2, 15, 3, 4), (2, 15, 0), (15, 2, 3)])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    scipy.io.savemat(tmp_path / "joints.mat", {"pos_img": np.zeros(shape)})
    with pytest.raises(ValueError, match=r"joints\.mat.*expected \(2, 15, frames\)"):
        read_joints(tmp_path / "joints.mat")
