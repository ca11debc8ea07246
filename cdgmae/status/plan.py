"""What Snakemake would still make: asked of itself, or as it said at the start of the run that is under way."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cdgmae.config import Config
from cdgmae.workflow.last_run import read_last_run

LOCKS = Path(".snakemake/locks")
MAX_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Plan:
    """Files that are to be made, though some of them are there.

    Attributes:
        outputs: Their paths, relative to the working directory.
        made: When this was told, in seconds since 1970: what is younger has been made since.
    """

    outputs: frozenset[str]
    made: float


def read_plan(config: Config, folder: Path, now: float) -> Plan | None:
    """What is to be made of a working directory in which the workflow ran.

    Beside a run it is what that run set out to make; otherwise Snakemake is asked, which takes some seconds and changes nothing.

    Args:
        config: The configuration.
        folder: Working directory of the workflow.
        now: Seconds since 1970.

    Returns:
        None if nothing ran there, or Snakemake cannot tell: then a result that is there counts as done.
    """
    last = read_last_run(folder)
    if last is None:
        return None
    if any((folder / LOCKS).glob("*")):
        return Plan(frozenset(last.planned), last.started)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "config.json"
        file.write_text(config.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--snakefile", last.snakefile, "--configfile", str(file)]
        try:
            done = subprocess.run(
                [*command, "--summary", "--nolock", "--quiet", "all"],
                cwd=folder, capture_output=True, text=True, timeout=MAX_SECONDS, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
    rows = csv.DictReader(done.stdout.splitlines(), delimiter="\t")
    return Plan(frozenset(row["output_file"] for row in rows if row.get("plan") == "update pending"), now)
