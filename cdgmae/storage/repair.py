"""What `cdgmae verify --repair` does: deletes what is damaged and can be made again, and writes records anew that are lost or damaged."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cdgmae.names import DEMO_MARKER, RECORD_SUFFIX, RECORDED_FOLDERS, RESULTS, folder_with
from cdgmae.storage.files.ancestry import ancestry
from cdgmae.storage.files.output_cache import kept_record
from cdgmae.storage.files.publishing import process_metadata
from cdgmae.storage.files.records import describes, files_of, find_record, write_record
from cdgmae.storage.verify import Finding


class Repair(NamedTuple):
    """What was done, as paths: `deleted`, `renewed` (records), and `kept`: what is damaged, and the source without which nothing makes it again."""

    deleted: list[Path]
    renewed: list[Path]
    kept: dict[Path, Path]


def repair(findings: Sequence[Finding], paths: Iterable[Path] = ()) -> Repair:
    """Delete what is damaged, so that the next run of the workflow makes it again; files that no workflow makes stay.

    Args:
        findings: What the check gave.
        paths: Where results without a record get one.
    """
    done = Repair([], [], beyond_repair(findings))
    for output in dict.fromkeys(output for finding in findings for output in finding.deletes):
        if output.exists() and output not in done.kept:
            shutil.rmtree(output) if output.is_dir() and not output.is_symlink() else output.unlink()
            done.deleted.append(output)
    broken = [Path(finding.path) for finding in findings if finding.kind == "record" and not finding.ok]
    for record in broken:
        record.unlink(missing_ok=True)
    lost = [_record_of(file) for path in paths if path.exists() for file in unrecorded(path) if file not in done.kept]
    for record in dict.fromkeys([*broken, *lost]):
        if _renew(record):
            done.renewed.append(record)
    return done


def beyond_repair(findings: Iterable[Finding]) -> dict[Path, Path]:
    """The damaged outputs that nothing can make again, and what is gone of what they were made from."""
    sources = {output: lost_source(output) for finding in findings for output in finding.deletes if output.exists()}
    return {output: source for output, source in sources.items() if source is not None}


def lost_source(output: Path) -> Path | None:
    """What a result was made from, is no result itself and is no longer there; None if all is there, or no record tells."""
    try:
        sources = [step.path for step in ancestry(output) if step.metadata is None and RESULTS not in step.path.parts]
    except ValueError:  # a damaged record on the way
        return None
    return next((path for path in sources if not path.exists() and not (path.parent / DEMO_MARKER).is_file()), None)


def unrecorded(path: Path) -> list[Path]:
    """The results that have no record, or a damaged one, of a file or folder."""
    return [file for file in files_of(path) if RESULTS in file.parts[:-1] and not _is_recorded(file)]


def _is_recorded(file: Path) -> bool:
    try:
        return find_record(file) is not None
    except ValueError:
        return False


def _record_of(file: Path) -> Path:
    """Where the record of a result lies that the workflow made."""
    folder = folder_with(file, RECORDED_FOLDERS)
    return folder / RECORD_SUFFIX if folder is not None else file.parent / f".{file.stem}{RECORD_SUFFIX}"


def _renew(record: Path) -> bool:
    """Write a record as it was, where work/finished has it and it fits, else from the files as they are: then what made them is not known."""
    stem = record.name[1 : -len(RECORD_SUFFIX)]
    beside = sorted(file for file in record.parent.iterdir() if file.is_file() and file.stem == stem)
    outputs = [record.parent] if not stem else beside
    if not outputs:
        return False
    former = kept_record(record)
    if former is not None:
        record.write_text(former, encoding="utf-8")
        if describes(record, outputs):
            return True
    write_record(record, outputs, {**process_metadata([]), "renewed": True})
    return True
