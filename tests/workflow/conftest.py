"""One finished run of the whole workflow at the smallest scale, shared by all workflow tests."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.shared_folders import made_once
from tests.warm_start import warm_programs

ROOT = Path(__file__).parents[2]
SNAKEMAKE = ["snakemake", "--snakefile", str(ROOT / "Snakefile")]
RESUME = ["--nolock", "--rerun-incomplete"]


def tiny_config() -> dict[str, Any]:
    """The shipped demo with every amount turned down; its shape is the demo's."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["demo"] |= {"num_tiles": 24, "clips_per_set": 1, "frames_per_clip": 4}
    training = config["views"]["generators"]["s_ldm"]["train"]
    training |= {"num_steps": 4, "batch_size": 8, "warmup_steps": 1, "whiten_condition": True}
    training["unet"] |= {"block_out_channels": [32, 32], "attention_levels": [1]}
    training.pop("start_from")  # it has other sizes
    config["views"]["sources"]["s_ldm"]["sampling"] |= {"num_views": 2, "num_inference_steps": 2, "batch_size": 16}
    config["pretrain"]["defaults"] |= {"epochs": 2, "effective_batch_size": 8, "depth": 1, "warmup_epochs": 1}
    for run in config["pretrain"]["runs"].values():
        run.pop("epochs", None)
        run.pop("warmup_epochs", None)
    config["runtime"] |= {"checkpoint_interval_seconds": 0.0}
    return config


@dataclass(frozen=True)
class Workplace:
    """A working directory with its config file; `warm`: see `environment`."""

    folder: Path
    warm: bool = True

    @property
    def config_file(self) -> Path:
        return self.folder / "config.yaml"

    def command(self, *arguments: str) -> list[str]:
        config = ["--configfile", str(self.config_file)]
        return [*SNAKEMAKE, "--directory", str(self.folder), "--cores", "2", *RESUME, *arguments, *config]

    def run(self, *arguments: str, timeout: float = 1100) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=timeout, env=environment(warm=self.warm)
        )

    def write_config(self, config: dict[str, Any]) -> None:
        self.config_file.write_text(yaml.safe_dump(config))

    def planned_jobs(self, *arguments: str) -> Counter[str]:
        """Rule -> number of jobs that a run would start now."""
        done = self.run("--dry-run", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", done.stderr + done.stdout, re.DOTALL)
        if table is None:
            assert "Nothing to be done" in done.stderr + done.stdout, done.stderr[-3000:]
            return Counter()
        rows = (line.split() for line in table.group(1).splitlines())
        return Counter({name: int(count) for name, count in rows if name not in ("all", "total")})


def environment(*, warm: bool = True) -> dict[str, str]:
    """The test's environment without settings that a surrounding run may have left; `warm`: commands start as `warm_start` says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CDGMAE_")}
    programs = warm_programs() if warm else Path(sys.executable).parent
    return {**kept, "OMP_NUM_THREADS": "1", "PATH": f"{programs}{os.pathsep}{kept['PATH']}"}


def set_key(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `config` with one dotted key set."""
    changed = copy.deepcopy(config)
    *parents, last = key.split(".")
    section = changed
    for parent in parents:
        section = section[parent]
    section[last] = value
    return changed


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The whole workflow, run to its end without disturbance; tests only read it."""

    def run(folder: Path) -> None:
        place = Workplace(folder)
        place.write_config(tiny_config())
        done = place.run("--show-failed-logs")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    return Workplace(made_once(tmp_path_factory, "finished", run))


@pytest.fixture
def copied(finished: Workplace, tmp_path: Path) -> Workplace:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Workplace(tmp_path / "copy")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A tree of stand-ins that Snakemake holds for finished; every test leaves it as it was."""
    from tests.workflow.finished_tree import make_tree  # which needs this module

    return make_tree(tmp_path_factory.mktemp("plans"))


@pytest.fixture(scope="session")
def jobs(tree: Workplace) -> dict[str, list[str]]:
    """Its jobs, e.g. `score_views s_ldm 00001`, and the outputs of each."""
    from tests.workflow.planning import outputs_of_jobs

    return outputs_of_jobs(tree)
