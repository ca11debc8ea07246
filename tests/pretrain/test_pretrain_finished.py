"""A finished run is found again when its declared results were deleted; under a launcher all processes leave together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.files.output_cache import FinishedCopy
from tests.pretrain.drawn_bags import RUN, write_bags

SETTINGS = RUN.model_copy(update={"epochs": 2})


def command(folder: Path, *more: object) -> list[str]:
    arguments = [
        "pretrain", "run", "--shards", folder / "shards", "--views", folder / "views", "--output", folder / "out", "--work",
        folder / "work", "--finished", folder / "kept", "--settings", SETTINGS.canonical_json(), "--device", "cpu", "--runtime", '{"trackers": []}',
        *more, "--json",
    ]  # fmt: skip
    return [str(argument) for argument in arguments]


def train(folder: Path, *more: object) -> dict:
    result = CliRunner().invoke(app, command(folder, *more), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.strip().splitlines()[-1])


def delete(output: Path) -> dict[str, bytes]:
    """Delete the results, as Snakemake does; returns their bytes."""
    found = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    shutil.rmtree(output)
    return found


def test_deleted_results_come_back_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bags(tmp_path)
    made = train(tmp_path)
    before = delete(tmp_path / "out")
    assert any(name.startswith("panels/") for name in before)
    with monkeypatch.context() as patched:
        patched.delattr("cdgmae.pretrain.run.train")
        assert train(tmp_path) == {**made, "restored": True}
    assert delete(tmp_path / "out") == before
    switch = "CDGMAE_REUSE_FINISHED"
    monkeypatch.setenv(switch, RuntimeSettings(reuse_finished=False).environment()[switch])
    assert "restored" not in train(tmp_path)
    monkeypatch.setenv(switch, RuntimeSettings().environment()[switch])
    delete(tmp_path / "out")
    assert "restored" not in train(tmp_path, "--seed", 1)


def test_a_kill_between_commit_and_record_loses_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bags(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FinishedCopy, "keep", killed)
        CliRunner().invoke(app, command(tmp_path))
    before = delete(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.delattr("cdgmae.training.loop._take_step")
        train(tmp_path)
    assert delete(tmp_path / "out") == before


@pytest.mark.slow
def test_all_processes_of_a_launcher_leave_together(tmp_path: Path) -> None:
    write_bags(tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "cdgmae"]
    printed = []
    for _ in range(2):
        done = subprocess.run(
            launcher + command(tmp_path), env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=180,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(json.loads(done.stdout.strip().splitlines()[-1]))
        shutil.rmtree(tmp_path / "out" / "panels")
    assert "restored" not in printed[0]
    assert printed[1] == {**printed[0], "restored": True}
