"""What the workflow says when it cannot run: one paragraph, a next step, exit code not 0, nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.workflow.conftest import Workplace, set_key, tiny_config


def own_images(folder: Path) -> dict[str, Any]:
    return set_key(tiny_config(), "shards.datasets.demo.path", str(folder))


def attempt(tmp_path: Path, config: dict[str, Any], target: str = "shards") -> tuple[int, str]:
    place = Workplace(tmp_path)
    place.write_config(config)
    done = place.run(target, timeout=600)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_missing_data_path_is_told_before_any_job(tmp_path: Path) -> None:
    code, words = attempt(tmp_path, own_images(tmp_path / "nowhere"))
    assert code != 0
    assert "shards.datasets.demo.path" in words
    assert "does not exist" in words
    assert "Traceback" not in words
    assert not (tmp_path / "results").exists()


def test_two_stages_with_unknown_names_are_told_together(tmp_path: Path) -> None:
    config = set_key(tiny_config(), "views.sources.s_ldm.generator", "gone")
    code, words = attempt(tmp_path, set_key(config, "propagation.encoders.cdg.run", "gone_too"))
    assert code != 0
    assert "views.sources.s_ldm.generator = 'gone'" in words
    assert "propagation.encoders.cdg.run = 'gone_too'" in words
    assert "Traceback" not in words


@pytest.mark.slow
def test_empty_folder_and_folder_of_corrupt_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, words = attempt(tmp_path / "a", own_images(empty)) if (tmp_path / "a").mkdir() is None else (0, "")
    assert code != 0
    assert str(empty) in words
    corrupt = tmp_path / "corrupt/n00000001"
    corrupt.mkdir(parents=True)
    for number in range(6):
        (corrupt / f"{number}.jpg").write_bytes(b"not an image")
    (tmp_path / "b").mkdir()
    code, words = attempt(tmp_path / "b", own_images(corrupt.parent))
    assert code != 0
    assert "not an image of a known format" in words
    assert not (tmp_path / "b/results/shards/demo/summary.parquet").exists()


@pytest.mark.slow
def test_a_data_set_that_fails_its_check_stops_what_is_made_of_it_alone(tmp_path: Path) -> None:
    for name in ("good", "poor"):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.new("RGB", (40, 40), (number, 2, 3)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "poor/bad.png").write_bytes(b"not an image")
    place = Workplace(tmp_path)
    names = ("poor", "good")
    config = {
        "shards": {"datasets": {name: {"path": name, "num_shards": 1} for name in names}},
        "views": {"sources": {name: {"kind": "crops", "dataset": name} for name in names}},
        "consistency": {"sources": list(names), "encoder": {"pixels": 8}, "image_size": 32},
        "runtime": {"device": "cpu", "threads": 1},
    }
    place.write_config(config)
    line = ("shards", "consistency", "--keep-going", "--cores", "1")  # the check comes first
    done = place.run(*line)
    assert done.returncode != 0
    assert (tmp_path / "results/consistency/good/00000.parquet").is_file()
    assert not (tmp_path / "results/consistency/poor/00000.parquet").exists()
    assert "the data set of results/shards/poor/00000.tar failed its check" in done.stdout + done.stderr
    place.write_config(set_key(config, "shards.datasets.poor.max_bad_fraction", 0.5))
    done = place.run(*line)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "results/shards/poor/too_many_bad_images.csv").exists()
    place.write_config(config)
    bad = tmp_path / "poor/bad.png"
    for mend in (
        lambda: bad.write_bytes((tmp_path / "poor/0.png").read_bytes()),
        bad.unlink,
    ):  # as the message says, and the same line again
        bad.write_bytes(b"not an image")
        done = place.run("shards")
        assert "mend or remove" in " ".join((done.stdout + done.stderr).lower().split())
        mend()
        done = place.run("shards")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_results_that_cannot_be_written(tmp_path: Path) -> None:
    images = tmp_path / "images/n00000001"
    images.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (40, 40), (number, 2, 3)).save(images / f"{number}.png")
    (tmp_path / "results").write_text("a file where the folder should be")
    code, words = attempt(tmp_path, own_images(images.parent))
    assert code != 0
    assert "results" in words
    assert (tmp_path / "results").read_text() == "a file where the folder should be"
