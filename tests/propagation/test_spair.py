"""Image pairs with key points: SPair-71k's layout, both means of PCK against literal loops, and the way through the whole stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawn_clips import save_image
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.propagation.benchmarks.spair import ALPHAS, Spair, SpairProtocol
from cdgmae.propagation.engine.frames import embed_frames
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.propagation.layouts.labelled_clip import LayoutError
from cdgmae.propagation.measures.encoder_summary import summarise
from cdgmae.report.pages.propagation.propagation_page import write_propagation_page
from cdgmae.report.propagation_scores import read_scores
from cdgmae.settings.encoder import EncoderSettings, VitSettings
from cdgmae.settings.report import ReportJobSettings
from cdgmae.settings.runtime import RuntimeSettings
from tests.oracles.spair_oracle import literal_pck

ON_CPU = RuntimeSettings(device="cpu")
SMALL_VIT = EncoderSettings(random=VitSettings(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2))
SIZES = {"a": (60, 80), "b": (72, 56), "c": (64, 64)}


def write_spair(root: Path, *, colon: str = ":") -> list[dict[str, Any]]:
    """Two categories of three images and their pairs; the annotations in the order of the list."""
    rng = np.random.default_rng(0)
    pairs, names = [], []
    for category, chosen in (("cat", ("ab", "bc", "ca")), ("bus", ("ba",))):
        for name, (height, width) in SIZES.items():
            texture = np.kron(rng.integers(0, 256, (9, 10, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
            save_image(root / f"JPEGImages/{category}/{category}_{name}.jpg", texture[:height, :width])
        for number, (one, other) in enumerate(chosen):
            ends = {}
            for key, image in (("src", one), ("trg", other)):
                height, width = SIZES[image]
                points = rng.uniform(1, 0.98 * min(height, width), (4 + number, 2)).round(1).tolist()
                ends |= {f"{key}_imname": f"{category}_{image}.jpg", f"{key}_imsize": [width, height, 3], f"{key}_kps": points}
            pairs.append({**ends, "src_bndbox": [2, 2, 50, 50], "trg_bndbox": [3, 4, 50 + number, 48], "category": category})
            names.append(f"{number:06d}-{category}_{one}-{category}_{other}:{category}")
    (root / "Layout/large").mkdir(parents=True)
    (root / "Layout/large/test.txt").write_text("".join(f"{name}\n" for name in names))
    for name, pair in zip(names, pairs, strict=True):
        path = root / f"PairAnnotation/test/{name.replace(':', colon)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(pair))
    return pairs


def test_both_means_equal_literal_loops_overall_and_per_category(tmp_path: Path) -> None:
    pairs = write_spair(tmp_path / "SPair")
    protocol = SpairProtocol(root=str(tmp_path / "SPair"), input_size=(64, 96))
    scores = run_propagation(protocol, SMALL_VIT, tmp_path / "spair.parquet", runtime=ON_CPU, save_predictions=tmp_path / "out")
    files = sorted((tmp_path / "SPair/JPEGImages").glob("*/*.jpg"))
    encoder = load_encoder(SMALL_VIT, device=torch.device("cpu"))
    features = {
        path.name: features_ND.reshape(8, 12, -1).double().numpy()
        for path, features_ND in zip(files, embed_frames(files, (64, 96), encoder, torch.device("cpu")), strict=True)
    }
    rows = pq.read_table(tmp_path / "spair.parquet").to_pylist()
    assert [(row["sequence"], row["points"], row["frames"]) for row in rows] == [
        ("cat", 4, 3),
        ("cat", 5, 3),
        ("cat", 6, 3),
        ("bus", 4, 2),
    ]
    for alpha in ALPHAS:
        for category, some in {"": pairs, "cat": pairs[:3], "bus": pairs[3:]}.items():
            found = Spair().scores([row for row in rows if row["sequence"] == category]) if category else scores
            assert (found[f"PCK@{alpha} per image"], found[f"PCK@{alpha} per point"]) == pytest.approx(
                literal_pck(some, features, alpha)
            )
    assert len({literal_pck(pairs, features, alpha) for alpha in (0.1, 0.5)}) == 2  # the loops see hits and misses
    points = pq.read_table(tmp_path / "out/key_points/cat.parquet").to_pylist()
    assert len(points) == 15
    hits = sum(point["distance"] <= 0.1 for point in points)
    assert hits == sum(row["hits_0.1"] for row in rows if row["sequence"] == "cat")


def test_the_same_image_is_found_in_itself(tmp_path: Path) -> None:
    write_spair(tmp_path)
    for path in (tmp_path / "PairAnnotation/test").iterdir():
        pair = json.loads(path.read_text())
        same = {f"trg_{key}": pair[f"src_{key}"] for key in ("imname", "imsize", "kps")}
        path.write_text(json.dumps({**pair, **same, "trg_bndbox": [0, 0, 80, 80]}))
    protocol = SpairProtocol(root=str(tmp_path), input_size=(64, 64))
    scores = run_propagation(protocol, EncoderSettings(pixels=4), tmp_path / "t.parquet", runtime=ON_CPU)
    assert scores["PCK@0.1 per image"] > 60


def test_the_set_goes_through_summary_page_and_command_as_clips_do(tmp_path: Path) -> None:
    root = tmp_path / "SPair"
    write_spair(root, colon="_")
    result = CliRunner().invoke(
        app,
        ["propagation", "run", "spair", "--root", str(root), "--settings", "input_size=64x96", "--encoder", "pixels:8", "--name", "floor",
         "--output", str(tmp_path / "results/propagation/floor"), "--strips", "--overlays", "gif", "--device", "cpu", "--json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout.splitlines()[-1])
    assert list(scores) == [measure.name for measure in Spair().measures]
    folder = tmp_path / "results/propagation"
    summarise([folder / "floor/spair.parquet"], folder / "summary.parquet", folder / "summary.csv")
    assert (folder / "summary.csv").read_text().startswith("encoder,PCK@0.1 per image,PCK@0.1 per point,PCK@0.05 per image")
    write_propagation_page(ReportJobSettings(), tmp_path / "results", tmp_path / "page", read_scores(folder))
    page = (tmp_path / "page/propagation/index.html").read_text()
    assert "SPair PCK@0.1 per image" in page
    assert (tmp_path / "page/propagation/strips/spair/000-0.jpg").is_file()
    assert (folder / "floor/overlays/cat.gif").is_file()


def annotate(root: Path, **changed: Any) -> None:
    path = root / "PairAnnotation/test/000000-bus_b-bus_a:bus.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


FAULTS = {
    "a missing annotation": (lambda root: next((root / "PairAnnotation/test").iterdir()).unlink(), r"000000-cat_a-cat_b:cat\.json: missing|missing"),
    "a missing image": (lambda root: (root / "JPEGImages/cat/cat_a.jpg").unlink(), r"cat_a\.jpg: missing"),
    "another size": (
        lambda root: save_image(root / "JPEGImages/bus/bus_a.jpg", np.zeros((30, 40, 3), np.uint8)),
        r"bus_a\.jpg: 40x30 pixels, but its annotations say 80x60",
    ),
    "points without partners": (
        lambda root: (root / "PairAnnotation/test/000000-bus_b-bus_a:bus.json").write_text(
            json.dumps({"src_kps": [[1, 2]], "trg_kps": [], "trg_bndbox": [0, 0, 1, 1]})
        ),
        r"1 source and 0 target key points",
    ),
    "a name that leads elsewhere": (lambda root: annotate(root, src_imname="../bus/bus_a.jpg"), r"is no name of a file"),
    "an absolute name": (lambda root: annotate(root, src_imname="/etc/hostname"), r"is no name of a file"),
    "a name longer than any": (lambda root: annotate(root, src_imname="a" * 5000), r"is no name of a file"),
    "a box without end": (lambda root: annotate(root, trg_bndbox=[0, 0, 1e999, 1]), r"no finite positions"),
    "nested without end": (
        lambda root: (root / "PairAnnotation/test/000000-bus_b-bus_a:bus.json").write_text("[" * 100_000), r"RecursionError",
    ),
    "no list": (lambda root: (root / "Layout/large/test.txt").unlink(), r"Layout/large/test\.txt: missing"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_folder_are_named(tmp_path: Path, fault: str) -> None:
    write_spair(tmp_path)
    plant, words = FAULTS[fault]
    plant(tmp_path)
    with pytest.raises(LayoutError, match=words):
        Spair().read(SpairProtocol(root=str(tmp_path)))
