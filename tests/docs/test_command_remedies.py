"""A command that a message names is taken out of it, run, and what failed goes on."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from cdgmae.workflow.last_run import remember_run
from tests.docs.remedies import COMMAND, ROOT
from tests.generators.conftest import KEYS, write_shard
from tests.propagation.drawn_clips import write_davis
from tests.warm_start import warm_programs
from tests.workflow.conftest import environment

FLOOR = {"propagation": {"datasets": {"davis": {"root": "davis"}}, "encoders": {"floor": {"pixels": 16}}}}
PROFILE = "executor: slurm\ndefault-resources: {mem_mb: 1000, runtime: 5}\n"
SLURM = {
    "sbatch": 'for script; do :; done; SLURM_JOB_ID=7 bash -c "$script" >&2; echo 7',
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; shift 3; exec cdgmae "$@"',
    "squeue": "exit 0",
    "scancel": "exit 0",
}
"""Slurm of one node that runs a job as it is submitted, with the warm `cdgmae` as what `python -m cdgmae.cli` is."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, cwd: Path | None = None, **variables: str) -> tuple[int, str]:
    """Exit code and words of a command line."""
    known = environment() | variables
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=300, env=known, cwd=cwd, check=False)
    return done.returncode, done.stdout + done.stderr


def remedies(line: str, **variables: str) -> list[str]:
    """The commands in the message with which a command line fails."""
    code, said = run(line, **variables)
    assert code == 1, said
    (message,) = re.findall(r"^error: .*$", said, re.MULTILINE)
    return list(COMMAND.findall(message))


def ends_well(line: str, cwd: Path | None = None, **variables: str) -> str:
    code, said = run(line, cwd, **variables)
    assert code == 0, said
    return said


def test_config_diff_shows_what_status_says_has_changed(here: Path) -> None:
    remember_run(FLOOR, [Path("config.yaml")])
    Path("config.yaml").write_text(yaml.safe_dump(FLOOR | {"seed": 1}))
    (line,) = COMMAND.findall(next(line for line in ends_well("cdgmae status").splitlines() if "the next run goes by" in line))
    assert ends_well(line).startswith("seed: 0 -> 1\n")


def test_doctor_looks_at_this_machine_and_tries_a_cluster_where_there_is_one(here: Path) -> None:
    (alone,) = remedies("cdgmae doctor --wait 3")
    assert "python" in ends_well(alone)
    (line,) = remedies("cdgmae doctor --cluster", PATH=str(warm_programs()))  # where there is no sbatch
    (here / "workflow/profiles/slurm").mkdir(parents=True)
    (here / "workflow/profiles/slurm/config.yaml").write_text(PROFILE)
    programs = here / "bin"
    programs.mkdir()
    for name, text in SLURM.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    assert "All classes work." in ends_well(line, PATH=f"{programs}{os.pathsep}{environment()['PATH']}")


def test_a_launcher_is_given_a_program_and_a_folder_a_profile(here: Path) -> None:
    (line,) = remedies("cdgmae cluster launch none -- cdgmea version")
    assert "hello" in ends_well(line.replace("...", "none").replace("COMMAND", "echo hello"))
    (line,) = remedies("cdgmae cluster run --dry-run")
    ends_well(line.replace("FOLDER", "mine"))
    said = ends_well(f"cdgmae cluster run --dry-run --quiet all --cores 1 --snakefile {ROOT / 'Snakefile'}", cwd=here / "mine")
    assert "there is no" not in said


def test_scores_and_summaries_that_are_not_there_are_made(here: Path) -> None:
    write_shard(here / "results/shards/photos/00000.tar", KEYS[:3])
    summary = "results/consistency/summary.parquet"
    _, summarise = remedies("cdgmae consistency show")
    (score,) = remedies(f"{summarise} --output {summary}")
    table = "results/consistency/crops/00000.parquet"
    real = "--real results/shards/photos/00000.tar --encoder pixels:8 --source crops --settings image_size=32"
    ends_well(f"{score} {real} --output {table}")
    ends_well(f"{summarise} {table} --output {summary}")
    assert "crops" in ends_well("cdgmae consistency show")


def test_a_summary_that_is_not_there_is_made(here: Path) -> None:
    write_davis(here / "davis", names=("one",), frames=3)
    ends_well(
        "cdgmae propagation run davis --root davis --encoder pixels:8 --settings input_size=32x48 --output results/propagation/floor"
    )
    _, summarise = remedies("cdgmae propagation show")
    ends_well(f"{summarise} results/propagation/floor/davis.parquet --output results/propagation/summary.parquet")
    assert "davis" in ends_well("cdgmae propagation show")
