"""The configuration of the last run in a folder, which commands go by and against which a change is told."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae.config import Config, ConfigError, check_config
from cdgmae.settings.reading.differences import differences

RECORD = Path("work/last_run.json")
"""Relative to the working directory of the workflow."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run that had something to do.

    Attributes:
        files: Its configuration files, in the order in which they are laid over each other.
        values: What they and `--config` gave, as plain values.
        started: Seconds since 1970.
        snakefile: The workflow.
        planned: What it set out to make.
    """

    files: tuple[str, ...]
    values: Mapping[str, Any]
    started: float
    snakefile: str
    planned: tuple[str, ...]

    @property
    def config(self) -> Config:
        """The checked configuration.

        Raises:
            ConfigError: if this version no longer takes it.
        """
        return check_config(self.values, self.name)

    @property
    def name(self) -> str:
        """Its files and when it started, for people."""
        return f"{', '.join(self.files)} (last run, {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.started))})"


def read_last_run(folder: Path = Path()) -> LastRun | None:
    """What `remember_run` left in a working directory; None if nothing ran there, or its record cannot be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return LastRun(
            tuple(record["files"]), record["values"], float(record["started"]), record["snakefile"], tuple(record["planned"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def how_to_run(stage: str) -> str:
    """What to do where results of a stage are not there, as a part of a sentence; with the configuration files of the last run here."""
    last = read_last_run()
    files = ["--configfile", *last.files] if last is not None else []
    command = shlex.join(["snakemake", "--cores", "all", stage, *files])
    return f"run `{command}`{'' if files else ', with the --configfile of your run'}"


def remember_run(
    values: Mapping[str, Any], files: Sequence[Path], snakefile: str = "Snakefile", planned: Iterable[str] = ()
) -> None:
    """Write down a run that starts in the working directory; a folder that cannot be written is left alone.

    Args:
        values: Its configuration as plain values.
        files: Where they come from.
        snakefile: The workflow.
        planned: The files that it will make.
    """
    here = Path.cwd()
    shown = [os.path.relpath(file, here) if here in Path(file).absolute().parents else str(file) for file in files]
    record = {
        "files": shown,
        "values": values,
        "started": time.time(),
        "snakefile": snakefile,
        "planned": list(map(str, planned)),
    }
    temporary = RECORD.with_name(f".{RECORD.name}.{os.getpid()}")
    try:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record, default=str, indent=1) + "\n", encoding="utf-8")
        temporary.replace(RECORD)
    except OSError:
        temporary.unlink(missing_ok=True)


def changes_since_last_run(config: Config) -> list[str]:
    """What to say at the start of a run: the keys that changed since the last one, below a heading; nothing if none did."""
    last = read_last_run()
    try:
        lines = changed_keys(last.config, config) if last is not None else []
    except ConfigError:  # of another version
        lines = []
    return [f"Changed since {last.name}:", *(f"    {line}" for line in lines)] if last is not None and lines else []


def changed_keys(old: Config, new: Config) -> list[str]:
    """One line per key that differs, as `key: old -> new`; what a run has from `pretrain.defaults` is told there alone."""
    lines = list(differences(old.model_dump(mode="json"), new.model_dump(mode="json")))
    defaults = {line.removeprefix("pretrain.defaults.") for line in lines if line.startswith("pretrain.defaults.")}
    return [line for line in lines if not (line.startswith("pretrain.runs.") and line.split(".", 3)[-1] in defaults)]
