"""Saved predictions, read back as other tools would read them, give the reported scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from drawn_clips import save_ids, write_davis, write_jhmdb, write_vip
from PIL import Image

from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.propagation.measures.joints import read_joints
from cdgmae.propagation.measures.masks import VOID
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from tests.oracles import propagation_oracle as oracle

ON_CPU = RuntimeSettings(device="cpu")


def run(kind: str, root: Path, output: Path) -> dict[str, float]:
    protocol = benchmark_of(kind).protocol(root=str(root), input_size=(64, 96), radius=4.0)
    return run_propagation(protocol, parse_encoder("pixels:8"), output / "table.parquet", runtime=ON_CPU, save_predictions=output)


def read_ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_masks_give_j_and_f_of_every_object(tmp_path: Path) -> None:
    root, output = write_davis(tmp_path / "DAVIS", step=6), tmp_path / "out"
    run("davis", root, output)
    for row in pq.read_table(output / "table.parquet").to_pylist():
        pairs = [
            [
                read_ids(folder / row["sequence"] / f"{frame:05d}.png") == row["item"]
                for folder in (output / "masks", root / "Annotations/480p")
            ]
            for frame in range(1, 4)  # the first and the last frame are not scored
        ]
        assert row["J_mean"] == pytest.approx(np.mean([oracle.literal_region(*pair) for pair in pairs]))
        assert row["F_mean"] == pytest.approx(np.mean([oracle.literal_accuracy(*pair) for pair in pairs]))
        assert row["J_recall"] == pytest.approx(np.mean([oracle.literal_region(*pair) > 0.5 for pair in pairs]))


def test_void_of_the_first_annotation_is_background_in_saved_masks(tmp_path: Path) -> None:
    """As in the published masks; the official toolkit refuses an index beyond the number of objects. Scores stay those with void."""
    root, output = write_davis(tmp_path / "DAVIS", ("one",), step=6), tmp_path / "out"
    path = root / "Annotations/480p/one/00000.png"
    ids = read_ids(path).copy()
    ids[:, -24:] = VOID
    save_ids(path, ids)
    run("davis", root, output)
    saved = np.stack([read_ids(mask) for mask in sorted((output / "masks/one").iterdir())[1:]])
    assert set(np.unique(saved)) == {0, 1, 2}
    assert (saved[:, :, -8:] == 0).all()


def test_part_masks_give_the_mean_iou(tmp_path: Path) -> None:
    root, output = write_vip(tmp_path / "VIP"), tmp_path / "out"
    scores = run("vip", root, output)
    pairs = []
    for folder in sorted((root / "Annotations/Category_ids").iterdir()):
        truths, predictions = sorted(folder.iterdir()), sorted((output / "masks" / folder.name).iterdir())
        pairs += [(read_ids(ours), read_ids(truth)) for ours, truth in zip(predictions, truths, strict=True)]
    assert scores["mIoU"] == pytest.approx(100 * oracle.literal_mean_iou(pairs, 20))


def test_joint_files_give_pck(tmp_path: Path) -> None:
    root, output = write_jhmdb(tmp_path / "JHMDB", step=4), tmp_path / "out"
    scores = run("jhmdb", root, output)
    counts = np.zeros((15, 2))
    for path in sorted((output / "joints").iterdir()):
        joints = pd.read_parquet(path)
        x, y, found = (joints.pivot_table(index="joint", columns="frame", values=name).to_numpy() for name in ("x", "y", "found"))
        truth = read_joints(root / f"joint_positions/run/{path.stem}/joint_positions.mat")
        counts += oracle.literal_pck(np.stack([x, y]), found > 0, truth, 0.1)
    seen = counts[:, 0] > 0
    assert scores["PCK@0.1"] == pytest.approx(100 * (counts[seen, 1] / counts[seen, 0]).mean())
