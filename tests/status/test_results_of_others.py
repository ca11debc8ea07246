"""What another configuration or version left in results/ is named, by `status` and `verify`, with commands that remove it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdgmae import names
from cdgmae.cli import app
from cdgmae.config import Config, load_config
from cdgmae.status.expected import expected_jobs
from cdgmae.status.status_summary import workflow_status
from cdgmae.status.undeclared import undeclared_results
from cdgmae.storage.files.command_line import note_command_line
from cdgmae.storage.files.publishing import published
from cdgmae.workflow import pretrain, shards
from cdgmae.workflow.last_run import remember_run

ROOT = Path(__file__).parents[2]
STRAYS = [
    "results/shards/demo/00007.tar",
    "results/shards/old",
    "results/views/s_ldm/00007.parquet",
    "results/consistency/gone/00000.parquet",
]


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(ROOT / "config.yaml")


@pytest.fixture
def place(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All outputs of the demo, and what lies beside them by right."""
    monkeypatch.chdir(tmp_path)
    for job in expected_jobs(config):
        for output in job.outputs:
            write(Path(output))
    for name in ("bad_images.csv", "left_out.csv", ".manifest.record.json", ".00000.tar.lock"):
        write(Path(names.shards_dir("demo"), name))
    write(Path(names.run_dir("cdg", 0), "panels/step1.png"))
    write(Path(names.run_dir("cdg", 0), "model.safetensors"))
    return tmp_path


def write(path: Path) -> None:
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def test_results_of_the_configuration_alone_are_all_declared(place: Path, config: Config) -> None:
    assert undeclared_results(config, place) == []


def test_what_lies_beside_is_named_and_the_commands_remove_exactly_that(place: Path, config: Config) -> None:
    for stray in STRAYS:
        write(Path(stray) if "." in stray else Path(stray, "00000.tar"))
    found = [entry.path for entry in undeclared_results(config, place)]
    assert found == sorted([*STRAYS[:3], "results/consistency/gone"])
    before = {path for path in place.rglob("*") if path.is_file()}
    text = CliRunner().invoke(app, ["status", "--config", str(ROOT / "config.yaml")]).output
    commands = [line for line in text.splitlines() if line.strip().startswith("rm -r")]
    assert len(commands) == 4
    for command in commands:
        subprocess.run(["bash", "-c", command], check=True)
    gone = {path.relative_to(place).as_posix() for path in before - set(place.rglob("*"))}
    assert gone == {*STRAYS[::2], "results/shards/old/00000.tar", "results/consistency/gone/00000.parquet"}


def test_verify_names_it_by_the_last_run(place: Path, config: Config) -> None:
    write(Path(STRAYS[0]))
    assert "not of this configuration" not in CliRunner().invoke(app, ["verify", "results"]).output
    remember_run(config.model_dump(mode="json"), [ROOT / "config.yaml"])
    assert f"rm -r {STRAYS[0]}" in CliRunner().invoke(app, ["verify", "results"]).output


def test_what_another_version_or_other_settings_made_is_named(
    place: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(output: str, settings: str, version: str = "") -> None:
        note_command_line(["shards", "write", "--settings", settings, "--manifest", "x"])
        with monkeypatch.context() as patched:
            if version:
                patched.setattr("cdgmae.storage.files.publishing.__version__", version)
            with published(Path(output)):
                shutil.rmtree(output) if Path(output).is_dir() else None
                write(Path(output))
        note_command_line([])

    packing = shards.packing_settings(config, "demo")
    other = json.dumps({**json.loads(packing), "jpeg_quality": 7})
    make("results/shards/demo/00000.parquet", packing)
    make("results/shards/demo/00001.parquet", other)
    make(names.encoder_file("cdg", 0), pretrain.run_settings(config, "cdg").canonical_json(), version="0.0.9")
    found = {made["name"]: made["by"] for made in workflow_status(config, place)["made_otherwise"]}
    assert found == {"demo/00001": "other settings", "cdg/seed0": "version 0.0.9"}
    assert (
        "pretrain_encoder cdg/seed0 was made by version 0.0.9"
        in CliRunner().invoke(app, ["status", "--config", str(ROOT / "config.yaml")]).output
    )
