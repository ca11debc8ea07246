"""Write the pinned requirement files from the packages installed in the running environment.

Usage, in an environment into which `pip install -e .[dev,slurm,docs]` was run and in which `make test` and `make docs` pass:

    python envs/write_lock.py

`requirements.txt` holds everything `cdgmae` needs at run time, `requirements-dev.txt` what the extras `dev` and `slurm` add, `requirements-docs.txt`
what the extra `docs` adds.
`cdgmae.yaml` is the conda environment of `requirements.txt`. It repeats the list, because Snakemake makes the environment from a copy
of this file in another folder, where a relative path would lead nowhere, and makes it anew only if this file changes.
Only names and versions are written: no addresses.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
LINUX_ONLY = ("nvidia-", "cuda-", "triton")
CONDA_HEAD = """\
# The environment of all rules, for `snakemake --sdm conda`: the packages of requirements.txt. Run snakemake from the project's
# folder: cdgmae.post-deploy.sh then installs cdgmae itself from there. By hand, in the project's folder:
#     conda env create --name cdgmae --file envs/cdgmae.yaml && conda run --name cdgmae bash envs/cdgmae.post-deploy.sh
# Written by envs/write_lock.py; do not edit.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python =3.12
  - pip
  - pip:
"""
LINUX_MARKER = ' ; sys_platform == "linux" and platform_machine == "x86_64"'


def closure(name: str, extras: frozenset[str], found: dict[str, str]) -> None:
    """Collect `name`'s installed dependencies, recursively, into `found` (name -> version)."""
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        wanted = [requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""})]
        key = canonicalize_name(requirement.name)
        if not any(wanted):
            continue
        new = key not in found
        try:
            found[key] = distribution(key).version
        except PackageNotFoundError:
            continue
        if new or requirement.extras:
            closure(key, frozenset(requirement.extras) | {""}, found)


def write(path: Path, versions: dict[str, str], title: str) -> None:
    """Write one requirements file, sorted by name."""
    lines = [
        f"{name}=={version.split('+')[0]}{LINUX_MARKER if name.startswith(LINUX_ONLY) else ''}"
        for name, version in sorted(versions.items())
    ]
    path.write_text(f"# {title}\n# Written by envs/write_lock.py; do not edit.\n" + "\n".join(lines) + "\n")


def write_conda(path: Path, requirements: Path) -> None:
    """Write the conda environment that installs a requirements file's packages."""
    pins = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
    path.write_text(CONDA_HEAD + "".join(f"      - '{pin}'\n" for pin in pins))


def main() -> None:
    """Write all files."""
    core: dict[str, str] = {}
    closure("cdgmae", frozenset(), core)
    write(FOLDER / "requirements.txt", core, "What cdgmae needs at run time, pinned.")
    write_conda(FOLDER / "cdgmae.yaml", FOLDER / "requirements.txt")
    added = {
        "dev": ({"dev", "slurm"}, "What the tests, checks and the Slurm profile need besides requirements.txt, pinned."),
        "docs": ({"docs"}, "What the documentation's site needs besides requirements.txt, pinned."),
    }
    for name, (extras, title) in added.items():
        everything: dict[str, str] = {}
        closure("cdgmae", frozenset(extras), everything)
        extra = {package: version for package, version in everything.items() if package not in core}
        write(FOLDER / f"requirements-{name}.txt", extra, title)


if __name__ == "__main__":
    main()
