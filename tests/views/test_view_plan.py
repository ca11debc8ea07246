"""What sampling a data set costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.storage.image_shards import index_path
from cdgmae.storage.tables import write_table
from cdgmae.views.sampling.cost import Rate, plan_sampling
from tests.generators.conftest import KEYS, write_shard
from tests.views.test_view_sampling import sample

SAMPLING = {"num_views": 3, "num_inference_steps": 3, "guidance_scale": 2.0, "batch_size": 4}


@pytest.fixture
def project(generator_dir: Path, tmp_path: Path) -> Path:
    for number, keys in enumerate((KEYS[:3], KEYS[3:])):
        write_shard(tmp_path / "results" / "shards" / "animals" / f"{number:05d}.tar", keys)
    run = {"source": "crops", "pretext": "crops"}
    sections = {
        "shards": {"datasets": {"animals": {"path": str(tmp_path), "num_shards": 2}}},
        "views": {
            "generators": {"small": {"path": str(generator_dir)}},
            "sources": {
                "crops": {"kind": "crops", "dataset": "animals"},
                "drawn": {"kind": "s_ldm", "dataset": "animals", "generator": "small", "sampling": SAMPLING},
            },
        },
        "consistency": {"sources": ["drawn"], "encoder": {"pixels": 8}},
        "pretrain": {"runs": {"crops": run}},
        "propagation": {"datasets": {}, "encoders": {"crops": {"run": "crops"}}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path


def plan(project: Path, *arguments: object) -> dict:
    words = ["plan", "--config", project / "config.yaml", *arguments, "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, ["views", *(str(word) for word in words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.strip().splitlines()[-1])


def test_the_paper_costs_what_the_paper_says() -> None:
    """0.27 A100-seconds per view, 1.28 M images, 4 views: 48 hours on 8 GPUs (spec view_generators section 5)."""
    cost = plan_sampling(1_281_167, 128, 4, Rate(0.27, 40_000, "paper"), [1, 8, 128, 256])
    assert cost["gpu_hours"] == pytest.approx(384, abs=1)
    assert cost["wall_hours"][8] == pytest.approx(48, abs=0.1)
    assert cost["wall_hours"][256] == pytest.approx(1.5, abs=0.01)
    assert cost["files"] == 256
    assert 205e9 < cost["bytes"] < 215e9


def test_jobs_are_whole_shards() -> None:
    cost = plan_sampling(1000, 10, 1, Rate(3.6, 1, "given"), [4, 10])
    assert cost["wall_hours"] == {4: pytest.approx(0.3), 10: pytest.approx(0.1)}  # 10 shards on 4 GPUs take 3 rounds


def test_a_measured_plan_meets_what_sampling_then_writes(project: Path, generator_dir: Path, tmp_path: Path) -> None:
    cost = plan(project, "--measure")
    assert (cost["source"], cost["images"], cost["views"], cost["files"]) == ("drawn", 6, 18, 4)
    assert cost["gpu_hours"] * 3600 == pytest.approx(18 * cost["seconds_per_view"])
    written = 0
    for number in range(2):
        tar = project / "results" / "shards" / "animals" / f"{number:05d}.tar"
        sample(tar, generator_dir, tmp_path / "views", tar.name)
        written += (tmp_path / "views" / tar.name).stat().st_size
    assert cost["bytes"] == pytest.approx(written, rel=0.3)
    assert not list(project.glob("results/views"))


def test_a_given_rate_needs_no_generator_but_images(project: Path) -> None:
    assert plan(project, "--seconds-per-view", 3600, "--gpus", "1,2")["wall_hours"] == {"1": 18.0, "2": 9.0}
    assert plan(project, "--seconds-per-view", 1, "--images", 100, "--bytes-per-view", 1000)["views"] == 300
    shard = project / "results" / "shards" / "animals" / "00001.tar"
    index_path(shard).unlink()
    with pytest.raises(ValueError, match="run `snakemake --cores all shards` first, or give --images"):
        plan(project, "--seconds-per-view", 1)
    import pyarrow as pa

    write_table(shard.parent / "manifest.parquet", [{"key": key} for key in "abcd"], pa.schema([pa.field("key", pa.string())]))
    assert plan(project, "--seconds-per-view", 1)["images"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --measure"),
        (("--measure", "--seconds-per-view", 1), "either --measure"),
        (("--seconds-per-view", 1, "--gpus", "2,x"), "--gpus 2,x"),
        (
            ("--seconds-per-view", 1, "--source", "crops"),
            r"--source crops: no such source is drawn by a generator; give --source with one of drawn",
        ),
    ],
)
def test_wrong_questions_are_named(project: Path, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(project, *arguments)
