"""What lies in results/ beside what the configuration names: results of other settings that nothing uses any more."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cdgmae import names
from cdgmae.config import Config
from cdgmae.status.expected import expected_jobs
from cdgmae.workflow import consistency, pretrain, propagation, report, shards, views

SHOWN = 10


class Undeclared(NamedTuple):
    """A file, or a folder in which nothing is declared, below the working directory, and the bytes of its files."""

    path: str
    num_bytes: int


def undeclared_results(config: Config, root: Path = Path()) -> list[Undeclared]:
    """Files and folders in results/ that the configuration does not name, by name; hidden ones go with what they describe.

    Args:
        config: The configuration.
        root: Working directory of the workflow.
    """
    declared = {Path(path) for path in _declared(config)}
    above = {parent for path in declared for parent in path.parents}
    return sorted(_walk(root, Path(names.RESULTS), declared, above))


def removal_lines(left_over: Sequence[Undeclared]) -> list[str]:
    """What lies there, and the commands that remove it; nothing is removed here."""
    if not left_over:
        return []
    size = sum(entry.num_bytes for entry in left_over) / 1e6
    head = f"{len(left_over)} file(s) and folder(s) in {names.RESULTS}/ ({size:,.1f} MB) are not of this configuration, and nothing uses them:"
    shown = [f"    {shlex.join(['rm', '-r', entry.path])}  # {entry.num_bytes / 1e6:,.1f} MB" for entry in left_over[:SHOWN]]
    return [head, *shown, *([f"    and {len(left_over) - SHOWN} more (--json names all)"] if len(left_over) > SHOWN else [])]


def _declared(config: Config) -> Iterator[str]:
    for stage in (shards, views, consistency, pretrain, propagation, report):
        yield from stage.results(config)
    for job in expected_jobs(config):
        yield from job.outputs
    yield from (f"{names.shards_dir(dataset)}/{names.REFUSED_IMAGES}" for dataset in config.shards.datasets)
    yield from map(names.prepared_set, config.propagation.datasets)
    yield f"{names.RESULTS}/tables"  # targets of their own, whichever are named


def _walk(root: Path, folder: Path, declared: set[Path], above: set[Path]) -> Iterator[Undeclared]:
    if not (root / folder).is_dir():
        return
    for entry in sorted((root / folder).iterdir()):
        path = folder / entry.name
        if entry.name.startswith(".") or path in declared:
            continue
        if path in above:
            yield from _walk(root, path, declared, above)
        else:
            yield Undeclared(path.as_posix(), _size(entry))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() or file.is_symlink())
