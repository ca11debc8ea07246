"""What `pip install cdgmae` brings: the wheel, built as a release builds it, and a folder that `cdgmae init` writes with it alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from cdgmae import __version__
from cdgmae.project.new_project import FILES, write_project

ROOT = Path(__file__).parents[2]
SOURCES = ("cdgmae", "config.yaml", "envs", "LICENSE", "pyproject.toml", "README.md", "Snakefile", "workflow")


def call(*command: str | Path, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that finds the wheel, built from the source archive, and beside it the packages of this environment."""
    place = tmp_path_factory.mktemp("release")
    for name in SOURCES:
        source, copy = ROOT / name, place / "tree" / name
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    call(sys.executable, "-c", build, folder=place / "tree")
    with tarfile.open(place / f"cdgmae-{__version__}.tar.gz") as archive:
        archive.extractall(place / "unpacked", filter="data")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    call(
        sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", place, ".", folder=place / f"unpacked/cdgmae-{__version__}"
    )  # fmt: skip
    call(sys.executable, "-m", "venv", "--without-pip", place / "env", folder=place)
    (site,) = (place / "env/lib").glob("python3*/site-packages")
    (site / "installed.pth").write_text(sysconfig.get_path("purelib"))  # what is linked there, as cdgmae itself, is not followed
    (wheel,) = place.glob("*.whl")
    call(sys.executable, "-m", "pip", "install", *options, "--target", site, wheel, folder=place)
    return place / "env/bin/python"


@pytest.mark.slow
def test_an_installed_package_makes_a_folder_in_which_the_demo_runs(python: Path, tmp_path: Path) -> None:
    place = call(python, "-c", "import cdgmae; print(cdgmae.__file__, cdgmae.__version__)", folder=tmp_path)
    assert place.split() == [str(next(python.parents[1].glob("lib/*/site-packages/cdgmae/__init__.py"))), __version__]
    call(python, "-m", "cdgmae", "init", "demo", folder=tmp_path)
    planned = call(python, "-m", "snakemake", "--cores", "2", "--dry-run", folder=tmp_path / "demo", XDG_CACHE_HOME=str(tmp_path))
    jobs = {line.split()[0] for line in planned.splitlines() if line.split()[1:] and line.split()[1].isdigit()}
    assert jobs >= {
        "draw_demo_data",
        "write_shard",
        "train_generator",
        "make_views",
        "pretrain_encoder",
        "propagate_labels",
        "everything",
    }
    assert "s_ldm" in call(python, "-m", "cdgmae", "config", "check", folder=tmp_path / "demo")
    assert (tmp_path / "demo/workflow/experiments/paper.yaml").is_file()


def test_a_new_folder_holds_what_one_edits_and_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    written = write_project(tmp_path / "new")
    assert {"Snakefile", "config.yaml", "workflow/profiles/slurm/config.yaml", "workflow/schemas/config.schema.json"} < set(
        written
    )
    assert (tmp_path / "new/config.yaml").read_bytes() == (ROOT / "config.yaml").read_bytes()
    for name in ("Snakefile", "config.yaml", "workflow", "envs"):
        assert (FILES / name).resolve() == ROOT / name  # in the repository there is one of each
    with pytest.raises(ValueError, match=r"new is not empty \(Snakefile, config\.yaml, workflow\); choose a new folder"):
        write_project(tmp_path / "new")
    with pytest.raises(ValueError, match=r"config\.yaml cannot be written .*; choose another folder"):
        write_project(tmp_path / "new/config.yaml")
    (tmp_path / "empty").mkdir()
    assert write_project(tmp_path / "empty") == written


def test_the_package_says_what_the_citation_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    released = re.findall(r"^## \[(\d.*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == (__version__, str(citation["date-released"]))
    assert [author["name"] for author in project["authors"]] == [author["name"] for author in citation["authors"]]
    assert project["keywords"] == citation["keywords"]
    assert citation["preferred-citation"]["identifiers"][0]["value"].removeprefix("arXiv:") in project["urls"]["Paper"]
    low, high = project["requires-python"].removeprefix(">=3.").split(",<3.")
    versions = [
        text.rpartition(" ")[2] for text in project["classifiers"] if text.startswith("Programming Language :: Python :: 3.")
    ]
    assert versions == [f"3.{minor}" for minor in range(int(low), int(high))]
