"""`cdgmae verify`: whether results are whole, and what to delete where they are not."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdgmae.commands.options import json_wanted, print_result
from cdgmae.names import RESULTS
from cdgmae.settings.reading.messages import folded
from cdgmae.status.undeclared import Undeclared, removal_lines, undeclared_results
from cdgmae.workflow.last_run import read_last_run

if TYPE_CHECKING:
    from cdgmae.storage.repair import Repair
    from cdgmae.storage.verify import Finding

SHOWN_UNRECORDED = 3


def verify(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of any stage, e.g. results/shards.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Delete what is damaged, for the next run to make again; write lost records anew.")
    ] = False,
) -> None:
    """Re-check results from their bytes: every file against the sha256 that was recorded when it was written.

    Folders are walked and links followed. Shards, tables, safetensors and JSON are checked by their form too, which says what is damaged
    in them and serves files that no record knows (of earlier versions). Prints what is not whole and ends with exit code 1 then, and with the
    commands that delete it, so that the next run of the workflow makes it again, or write a damaged record anew; --repair runs them, and
    writes lost records anew, too. What cannot be made again, since its source is gone, is kept.

    Example: cdgmae verify results
    """
    from cdgmae.runtime.progress import ProgressMeter
    from cdgmae.storage.repair import beyond_repair
    from cdgmae.storage.repair import repair as repair_damaged
    from cdgmae.storage.verify import files_to_verify, verify_file

    files = files_to_verify(paths)
    if not files:
        raise ValueError(f"nothing to verify in {', '.join(map(str, paths))}: no result of this package there; check the path")
    findings: list[Finding] = []
    with ProgressMeter("verify", len(files), unit="files") as meter:
        for path in files:
            findings.append(verify_file(path))
            meter.advance()
    bad = [finding for finding in findings if not finding.ok]
    unrecorded = [finding.path for finding in findings if not finding.recorded and finding.kind not in ("missing", "record")]
    unrepairable = beyond_repair(bad)
    repairs = list(
        dict.fromkeys(finding.repair for finding in bad if finding.repair and unrepairable.keys().isdisjoint(finding.deletes))
    )
    done = repair_damaged(findings, paths) if repair else None
    if json_wanted():
        problems = [f"{finding.path}: {problem}" for finding in bad for problem in finding.problems]
        result = {
            "files": len(findings),
            "bad_files": len(bad),
            "problems": problems,
            "repairs": repairs,
            "unrecorded": unrecorded,
        }
        print_result(result | ({"repaired": done._asdict()} if done is not None else {}))
    else:
        for line in [
            *removal_lines(_undeclared(paths)), *_finding_lines(findings, bad, unrecorded),
            *(_command_lines(repairs) if done is None else _done_lines(done)),
            *(f"{path}: nothing can make it again, since {source} is gone; bring that back first" for path, source in unrepairable.items()),
        ]:  # fmt: skip
            typer.echo(line)
    if bad:
        raise typer.Exit(1)


def _undeclared(paths: list[Path]) -> list[Undeclared]:
    """What lies in the folder `results` of a workflow, if that is checked, beside what its last run named."""
    folders = [path.parent for path in paths if path.is_dir() and path.name == RESULTS]
    runs = [(folder, read_last_run(folder)) for folder in folders]
    return [entry for folder, run in runs if run is not None for entry in undeclared_results(run.config, folder)]


def _finding_lines(findings: list[Finding], bad: list[Finding], unrecorded: list[str]) -> Iterator[str]:
    for finding in bad:
        yield f"  bad {' and '.join(finding.damaged or (finding.path,))} ({finding.kind})"
        yield from (f"        {folded(problem)}" for problem in finding.problems)
    yield f"{len(findings)} file(s) checked, " + (f"{len(bad)} with problems" if bad else "all whole")
    if unrecorded:
        some = ", ".join(unrecorded[:SHOWN_UNRECORDED]) + (", ..." if len(unrecorded) > SHOWN_UNRECORDED else "")
        yield f"{len(unrecorded)} of them checked by their form alone, as no record has their sha256 (--repair records it): {some}"


def _command_lines(repairs: list[str]) -> Iterator[str]:
    deletions = [command for command in repairs if command.startswith("rm ")]
    if deletions:
        yield "Delete what is damaged (--repair does it), and the same run of the workflow again makes it and what follows:"
        yield from (f"    {command}" for command in deletions)
    if len(deletions) < len(repairs):
        yield "Write damaged records anew (--repair does it); no result is deleted, and nothing is made again:"
        yield from (f"    {command}" for command in repairs if command not in deletions)


def _done_lines(done: Repair) -> Iterator[str]:
    """What a repair did, and how to go on."""
    yield from (f"deleted {path}" for path in done.deleted)
    yield from (f"written anew {path}" for path in done.renewed)
    if done.deleted:
        last = read_last_run()
        files = ["--configfile", *last.files] if last is not None and last.files != ("config.yaml",) else []
        yield f"Next, the same run again: {shlex.join(['snakemake', '--cores', 'all', *files])}"
