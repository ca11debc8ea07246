"""The environments of envs/ install what pyproject.toml asks for, in the pinned versions."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ENVS = ROOT / "envs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins_of(name: str) -> list[str]:
    return [line for line in (ENVS / name).read_text().splitlines() if line and not line.startswith("#")]


PINS = pins_of("requirements.txt")
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize(
    ("files", "wanted_by"),
    [
        (["requirements.txt"], PROJECT["dependencies"]),
        (["requirements.txt", "requirements-dev.txt"], [*EXTRAS["dev"], *EXTRAS["slurm"]]),
        (["requirements.txt", "requirements-docs.txt"], EXTRAS["docs"]),
    ],
)
def test_every_requirement_is_pinned_in_an_allowed_version(files: list[str], wanted_by: list[str]) -> None:
    pins = [Requirement(pin) for name in files for pin in pins_of(name)]
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    for wanted in map(Requirement, wanted_by):
        (exact,) = pinned[canonicalize_name(wanted.name)]
        assert exact.operator == "=="
        assert wanted.specifier.contains(exact.version), wanted.name


def test_the_conda_environment_installs_the_pinned_requirements_from_any_folder() -> None:
    python, pip, packages = yaml.safe_load((ENVS / "cdgmae.yaml").read_text())["dependencies"]
    assert python.startswith("python =")
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python ="))
    assert pip == "pip"
    assert packages == {"pip": PINS}  # no relative path: Snakemake makes the environment from a copy in another folder


def test_cdgmae_itself_is_installed_from_the_project_s_folder_only(tmp_path: Path) -> None:
    script = ENVS / "cdgmae.post-deploy.sh"  # Snakemake finds it by this name
    assert "pip install" in script.read_text()
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not the project's folder" in done.stderr


def test_the_image_copies_what_it_installs() -> None:
    lines = [line.split() for line in (ENVS / "cdgmae.def").read_text().splitlines() if line.strip()]
    copied = {words[1]: words[0] for words in lines if len(words) == 2 and words[1].startswith("/opt/")}
    installs = [words for words in lines if words[:4] == ["python", "-m", "pip", "install"]]
    assert [words[-1] for words in installs] == ["/opt/cdgmae/envs/requirements.txt", "/opt/cdgmae"]
    assert copied["/opt/cdgmae/envs/requirements.txt"] == "envs/requirements.txt"
    assert {"pyproject.toml", "README.md", "LICENSE", "cdgmae"} <= set(copied.values())
    assert all((ROOT / source).exists() for source in copied.values())
    (base,) = (words[1] for words in lines if words[0] == "From:")
    assert SpecifierSet(PROJECT["requires-python"]).contains(base.removeprefix("python:").split("-")[0])
    assert 'container: "cdgmae.sif"' in (ROOT / "Snakefile").read_text()
