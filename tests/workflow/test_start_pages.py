"""Every command line on the pages that people begin with is run: commands in a finished demo, workflows as dry runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageOps
from skimage import data

from tests.docs.test_pages_say_what_is import shell_lines
from tests.workflow.conftest import ROOT, SNAKEMAKE, Workplace, environment

pytestmark = pytest.mark.slow

START_PAGES = ("README.md", "docs/start.md", "docs/your_own_data.md")
ON_A_CLUSTER = ("cdgmae doctor --cluster", "cdgmae cluster", "squeue")
"""Run by tests/slurm; their options are held by tests/docs."""


FOLDERS = {"photos": "images", "data/DAVIS": "DAVIS", "data/JHMDB": "JHMDB"}
"""A user's folders on these pages, and the folders of the demo's data that stand for them."""


def runnable(line: str) -> list[str] | None:
    """The command as it is tried here: workflows and make as dry runs; None for installing."""
    words = shlex.split(line.replace("/data/photos", "photos"))
    if words[0] == "make":
        return ["make", "--dry-run", "--directory", str(ROOT), *words[1:]]
    if words[0] == "snakemake":
        dry = [] if "--unlock" in words else ["--dry-run", "--nolock"]
        return [*SNAKEMAKE, *dry, *words[1:]]
    if words[0] == "cdgmae":
        return words
    assert words[:2] == ["pip", "install"], f"how is this line tried? {line}"
    extras = re.findall(r"\[(\w+)\]", line)
    assert set(extras) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    return None


def run_lines(text: str, folder: Path) -> list[str]:
    """Run the shell lines of a page, one after the other, in a folder; their programs, none of which failed."""
    lines = [line for line in shell_lines(text) if not line.strip().startswith(ON_A_CLUSTER)]
    assert lines
    commands = list(filter(None, map(runnable, lines)))
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment(), timeout=300, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return [command[0] for command in commands]


@pytest.mark.parametrize("page", START_PAGES)
def test_every_command_line_of_a_start_page_works(page: str, copied: Workplace) -> None:
    for name, demo in FOLDERS.items():
        (copied.folder / name).symlink_to(copied.folder / "data/demo" / demo)
    programs = run_lines((ROOT / page).read_text(), copied.folder)
    assert {SNAKEMAKE[0], "cdgmae"} <= set(programs)


def test_views_of_another_tool_are_packed_shown_and_scored_by_their_page(tmp_path: Path) -> None:
    cat = Image.fromarray(data.chelsea())
    for name, image in {
        "photos/cat.png": cat,
        "edited/cat.1.jpg": ImageOps.mirror(cat),
        "edited/cat/grey.webp": cat.convert("L"),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    run_lines((ROOT / "docs/your_views.md").read_text(), tmp_path)
    assert Image.open(tmp_path / "bag.png").width > 2 * 100
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    assert scores["key"].tolist() == ["cat"] * len(scores)
    assert scores["status"].tolist() == ["ok"] * 2


def test_what_the_page_on_clusters_says_outside_slurm_works(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("propagation: {datasets: {davis: {root: DAVIS}}, encoders: {floor: {pixels: 16}}}")
    assert "cdgmae" in run_lines((ROOT / "docs/on_a_cluster.md").read_text(), tmp_path)
