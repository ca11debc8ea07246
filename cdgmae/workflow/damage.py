"""Results that are there but no longer whole: a plan makes them again as if they were lost.

Snakemake goes by names and times, so it misses neither a file that is gone from a folder nor one that was cut short. The record of every result
has the size of each of its files, and is compared whenever the workflow is planned (perf/results/dag.md). Of small tables that are newer than
their record the bytes are compared, too: a job that read a damaged manifest would fail, and with it go the shards that Snakemake removed for it. Any
other file that changed and kept its size is found by who reads it and by `cdgmae verify`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cdgmae import names
from cdgmae.config import Config
from cdgmae.workflow import shards

COMPARED_BYTES = 256 * 2**20
"""Most that a plan reads of tables that are newer than their record, a second's work; the smallest come first."""


def force_damaged(workflow: Any, config: Config) -> dict[str, str]:
    """Let the plan of a workflow make again what is damaged, once it is planned.

    Returns:
        Declared output -> what is wrong, filled when the plan is made; nothing inside a job, which was planned by another process.
    """
    damaged: dict[str, str] = {}
    prepare = getattr(workflow, "_prepare_dag", None)
    if workflow.is_main_process and prepare is not None:

        def prepare_and_force(*arguments: Any, **options: Any) -> None:
            prepare(*arguments, **options)
            damaged.update(damaged_results(config))
            workflow.dag.forcefiles.update(damaged)

        workflow._prepare_dag = prepare_and_force
    return damaged


def damaged_results(config: Config) -> dict[str, str]:
    """The declared outputs in the working directory that lack a file or hold one of another size, and what is wrong.

    A data set with a lost shard counts by its summary, through which runs ask for the shards.
    """
    damaged: dict[str, str] = {}
    for dataset in config.shards.datasets:
        if lost := _lost_shard(config, dataset):
            damaged[shards.summary(dataset)] = f"{lost} is lost"
    newer: list[tuple[int, Path, str]] = []
    for path, problem in _problems_below(Path(names.RESULTS), newer):
        damaged.setdefault(_declared_with(path), problem)
    left = COMPARED_BYTES
    for size, path, sha256 in sorted(newer):
        left -= size
        if left >= 0 and os.access(path, os.R_OK) and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            damaged.setdefault(_declared_with(path), f"{path} does not have the bytes with which it was written")
    if config.demo is not None:
        marker = Path(names.demo_marker(config.demo.directory))
        if (gone := listing_problem(marker.parent, _sizes_in(marker))) is not None:
            damaged[str(marker)] = gone
    return damaged


def listing_problem(folder: Path, sizes: Mapping[str, int]) -> str | None:
    """What the first file is that is not in a folder with the size that it should have; None if all are."""
    return next((problem for _, problem in _listing_problems(folder, sizes)), None)


def _listing_problems(folder: Path, sizes: Mapping[str, int]) -> Iterator[tuple[Path, str]]:
    for name, size in sizes.items():
        path = folder / name
        try:
            actual = os.stat(path).st_size
        except OSError:
            yield path, f"{path} is lost"
        else:
            if actual != size:
                yield path, f"{path} has {actual:,} bytes instead of {size:,}"


def _lost_shard(config: Config, dataset: str) -> str | None:
    summary = Path(shards.summary(dataset))
    if not os.path.isfile(summary):
        return None
    there = set(os.listdir(summary.parent))
    return next((file for file in shards.shard_files(config, dataset) if os.path.basename(file) not in there), None)


def _problems_below(folder: Path, newer: list[tuple[int, Path, str]]) -> Iterator[tuple[Path, str]]:
    """(file, what is wrong) of a folder with a record of its own, else of files that are newer than their record, and of the folders below.

    Tables of the latter that have their size are added to `newer`: size, file and the SHA-256 that it should have.
    """
    try:
        with os.scandir(folder) as scanned:
            entries = {entry.name: entry for entry in scanned}
    except OSError:
        return
    if names.RECORD_SUFFIX in entries:
        yield from _listing_problems(folder, _sizes_in(folder / names.RECORD_SUFFIX))
        return
    for name, entry in entries.items():
        if name.startswith("."):
            continue
        record = entries.get(f".{name.rpartition('.')[0]}{names.RECORD_SUFFIX}")
        try:
            is_folder = entry.is_dir()
            is_newer = not is_folder and record is not None and entry.stat().st_mtime_ns > record.stat().st_mtime_ns
        except OSError as error:  # a link to nothing counts as lost; what nobody may look at, its readers name
            if record is not None and not isinstance(error, PermissionError):
                yield folder / name, f"{folder / name} is a link to nothing"
            continue
        if is_folder:
            yield from _problems_below(folder / name, newer)
        elif record is not None and is_newer:
            size, sha256 = _sums_in(folder / record.name).get(name, (None, ""))
            problems = list(_listing_problems(folder, {name: size} if size is not None else {}))
            yield from problems
            if size is not None and not problems and name.endswith(".parquet"):
                newer.append((size, folder / name, sha256))


def _sums_in(record: Path) -> dict[str, tuple[int, str]]:
    """Name -> size and SHA-256 ("": not known) of the files in a record or in the demo's listing; nothing if it cannot be read, which
    `cdgmae verify` says.
    """
    try:
        files = json.loads(record.read_text(encoding="utf-8"))["files"]
        return {name: (noted, "") if isinstance(noted, int) else (int(noted[0]), str(noted[1])) for name, noted in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}


def _sizes_in(record: Path) -> dict[str, int]:
    return {name: size for name, (size, _) in _sums_in(record).items()}


def _declared_with(path: Path) -> str:
    """The declared output that a file is or lies in; of a prepared evaluation set its listing."""
    if len(path.parts) > 3 and path.parts[1] == "evaluation_sets":
        return names.prepared_listing(path.parts[2])
    return str(names.output_with(path))
