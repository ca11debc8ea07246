"""A finished score table is found again when it was deleted, until a clip changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from drawn_clips import write_davis

from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.storage.files.output_cache import FinishedFolder


def test_a_deleted_table_comes_back_without_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, output = write_davis(tmp_path / "clips"), tmp_path / "davis.parquet"

    def run(**changes: object) -> dict:
        protocol = DavisProtocol.from_plain({"root": str(root), "input_size": [64, 96], "radius": 4.0, **changes})
        kept = FinishedFolder(tmp_path / "kept")
        return run_propagation(protocol, "pixels:8", output, device=torch.device("cpu"), finished=kept)

    made = run()
    before = output.read_bytes()
    output.unlink()
    with monkeypatch.context() as patched:
        patched.delattr("cdgmae.propagation.evaluation.frozen_encoder")
        assert run() == {**made, "restored": True}
    assert output.read_bytes() == before
    frame = next(root.rglob("*.jpg"))
    os.utime(frame, (1, 1))
    assert run() == made
    assert run(top_k=2).keys() == made.keys()
