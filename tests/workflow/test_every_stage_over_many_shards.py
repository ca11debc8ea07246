"""Six hundred shards with 64 open files at most: every command that reads many shards passes as a whole, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT, environment
from tests.workflow.many_shards import Used, commands

pytestmark = pytest.mark.slow

SHARDS, MEGABYTES = 600, 450
"""Shards of one image each, and what a command may take beyond what it imports (docs/reference/limits.md)."""


def test_every_stage_reads_many_shards_with_few_open_files_and_in_little_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.workflow.many_shards", str(tmp_path / "place"), str(SHARDS), str(SHARDS)],
        cwd=ROOT, capture_output=True, text=True, timeout=1500, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    used = {name: Used(*found) for name, found in json.loads(done.stdout.splitlines()[-1]).items()}
    assert list(used) == [name for name, _ in commands(SHARDS)]
    assert {name: found.code for name, found in used.items() if found.code} == {}, done.stdout[-3000:] + done.stderr[-6000:]
    assert {name: found.megabytes for name, found in used.items() if found.megabytes > MEGABYTES} == {}
