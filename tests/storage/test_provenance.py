"""`cdgmae provenance`: from a summary back to the images, through the records alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import cdgmae
from cdgmae.cli import app
from cdgmae.storage.files.atomic import write_text
from cdgmae.storage.files.publishing import published
from cdgmae.storage.verify import verify_paths
from tests.shards.drawn_images import image_bytes

FOLDER = "results/shards/photos"


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


def steps(file: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("provenance", file, "--json"))["steps"]
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs, packed and summarised; scored as crops with raw pixels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(4):
        (tmp_path / f"photos/{number}.jpg").write_bytes(image_bytes(number, (64, 64)))
    settings = json.dumps({"path": f"{tmp_path}/photos", "num_shards": 2})
    run("shards", "manifest", "--settings", settings, "--output", f"{FOLDER}/manifest.parquet")
    for shard in ("00000", "00001"):
        run(
            "shards",
            "write",
            "--settings",
            settings,
            "--manifest",
            f"{FOLDER}/manifest.parquet",
            "--output",
            f"{FOLDER}/{shard}.tar",
        )
        run(
            "consistency", "score", "--real", f"{FOLDER}/{shard}.tar", "--encoder", "pixels:8", "--source", "crops", "--settings", "image_size=32",
            "--output", f"results/consistency/crops/{shard}.parquet",
        )  # fmt: skip
    summarise()
    return tmp_path


def summarise() -> None:
    counts = json.dumps({"num_shards": {"crops": 2}})
    run("consistency", "summarise", "--settings", counts, "--output", "results/consistency/summary.parquet")


def test_the_way_back_ends_at_the_images(place: Path) -> None:
    found = steps("results/consistency/summary.csv")
    assert [(step["depth"], step["path"]) for step in found] == [
        (0, "results/consistency/summary.csv"),
        (1, "results/consistency/crops/00000.parquet"), (2, f"{FOLDER}/00000.tar"), (3, f"{FOLDER}/manifest.parquet"), (4, f"{place}/photos"),
        (1, "results/consistency/crops/00001.parquet"), (2, f"{FOLDER}/00001.tar"), (3, f"{FOLDER}/manifest.parquet"),
    ]  # fmt: skip
    assert found[4]["record"] is None
    assert all(step["record"]["version"] for step in found[1:4])
    assert all(len(step["digest"]) == 64 for step in found[1:])
    text = run("provenance", "results/consistency/summary.parquet")
    assert f"{place}/photos" in text
    assert "no record: not made here" in text
    assert "CHANGED" not in text


def test_an_input_that_was_made_anew_since_is_marked(place: Path) -> None:
    settings = json.dumps({"path": f"{place}/photos", "num_shards": 2, "resize": "center_crop", "image_size": 16})
    run("shards", "write", "--settings", settings, "--manifest", f"{FOLDER}/manifest.parquet", "--output", f"{FOLDER}/00001.tar")
    changed = [step["path"] for step in steps("results/consistency/summary.parquet") if step["changed"]]
    assert changed == [f"{FOLDER}/00001.tar"]
    assert "00001.tar  CHANGED since it was read" in run("provenance", "results/consistency/summary.parquet")


def test_a_file_of_nobody_has_no_past_and_an_absent_one_is_an_error(place: Path) -> None:
    assert [step["record"] for step in steps("photos/0.jpg")] == [None]
    done = CliRunner().invoke(app, ["provenance", "results/nothing"])
    assert "no such file" in str(done.exception)


def test_a_folder_has_the_way_back_of_its_record_or_names_its_results(place: Path) -> None:
    shutil.rmtree("results/consistency/crops")
    (place / "results/consistency/crops").mkdir()
    with published(Path("results/report"), inputs=[]):
        write_text(Path("results/report/figures/a.svg"), "x")
    assert [step["path"] for step in steps("results/report/figures")] == ["results/report/figures"]
    assert steps("results/report/figures")[0]["record"]["version"]
    with pytest.raises(ValueError, match=r"is a folder of .* results.*`cdgmae provenance results/consistency/summary.csv`"):
        CliRunner().invoke(app, ["provenance", "results"], catch_exceptions=False)


def test_images_packed_from_python_have_a_record(place: Path) -> None:
    CliRunner().invoke(app, ["verify", "results"])  # a command that is over is not what made them
    cdgmae.pack_images({"a": Image.new("RGB", (8, 8))}, "packed")
    (step,) = steps("packed/00000.tar")
    assert step["record"]["command"][0] == "python"
    assert [finding.recorded for finding in verify_paths([Path("packed")])] == [True]
