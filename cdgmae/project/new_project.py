"""What `cdgmae init` writes, and where the workflow's files lie."""

from __future__ import annotations

import shutil
from pathlib import Path

from cdgmae.storage.files.atomic import explain_write_errors, write_text

FILES = Path(__file__).parent / "files"

COPIED = ("config.yaml", "workflow/experiments", "workflow/profiles", "workflow/schemas")
"""What is edited, or named by commands and editors; rules and captions stay in the package, so that an upgrade brings them."""

ENTRY = """\
# The workflow of the installed package; `pip install --upgrade cdgmae` upgrades it. Rules of your own may follow.
from cdgmae.project.new_project import snakefile


include: snakefile()


# What `snakemake` alone makes: a Snakefile's default target is its own.
rule everything:
    default_target: True
    input:
        rules.all.input,
"""


def snakefile() -> str:
    """The Snakefile of the repository or of the installed package."""
    return str(FILES / "Snakefile")


SNAKEFILE_PLACES = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")
"""Where snakemake looks for one."""


def write_missing_snakefile(folder: Path) -> Path | None:
    """Write the Snakefile of `write_project` into a folder where snakemake would find none.

    Returns:
        What was written; None if there is one.
    """
    if any((folder / place).is_file() for place in SNAKEFILE_PLACES):
        return None
    with explain_write_errors(written := folder / "Snakefile"):
        write_text(written, ENTRY)
    return written


def write_project(folder: Path) -> list[str]:
    """Write config.yaml, a Snakefile, profiles, the paper's settings and the configuration's schema.

    Args:
        folder: A new or empty folder.

    Returns:
        What was written, relative to the folder.

    Raises:
        ValueError: if the folder holds anything already, is a file, or cannot be written.
    """
    try:
        if folder.is_dir() and (there := sorted(path.name for path in folder.iterdir())):
            raise ValueError(f"{folder} is not empty ({', '.join(there[:3])}{', ...' if there[3:] else ''}); choose a new folder")
        for name in COPIED:
            source, target = FILES / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copyfile(source, target)
        (folder / "Snakefile").write_text(ENTRY, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror or error}); choose another folder") from None
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
