"""`cdgmae verify`: whether results are whole, and what to delete where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cdgmae.commands.options import json_wanted, print_result
from cdgmae.names import RESULTS
from cdgmae.status.undeclared import Undeclared, removal_lines, undeclared_results
from cdgmae.terminal import open_console
from cdgmae.workflow.last_run import read_last_run

if TYPE_CHECKING:
    from cdgmae.storage.verify import Finding


def verify(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of any stage, e.g. results/shards.")],
    repair: Annotated[bool, typer.Option("--repair", help="Delete what is damaged; the next run makes it again.")] = False,
) -> None:
    """Re-check results from their bytes: every file against the sha256 that was recorded when it was written.

    Folders are walked and links followed. Shards, tables, safetensors and JSON are checked by their form too, which says what is damaged
    in them and serves files that no record knows (of earlier versions). Ends with exit code 1 and the list of problems if any file is not
    whole, and with the commands that delete what is damaged, so that the next run of the workflow makes it again; --repair runs them.

    Example: cdgmae verify results
    """
    from cdgmae.runtime.progress import ProgressMeter
    from cdgmae.storage.verify import files_to_verify, verify_file
    from cdgmae.storage.verify import repair as delete_damaged

    files = files_to_verify(paths)
    if not files:
        raise ValueError(f"nothing to verify in {', '.join(map(str, paths))}: no result of this package there; check the path")
    findings: list[Finding] = []
    with ProgressMeter("verify", len(files), unit="files") as meter:
        for path in files:
            findings.append(verify_file(path))
            meter.advance()
    problems = [f"{finding.path}: {problem}" for finding in findings for problem in finding.problems]
    repairs = list(dict.fromkeys(finding.repair for finding in findings if finding.repair is not None))
    if json_wanted():
        bad_files = sum(not finding.ok for finding in findings)
        unrecorded = [finding.path for finding in findings if not finding.recorded]
        facts = {
            "files": len(findings),
            "bad_files": bad_files,
            "problems": problems,
            "repairs": repairs,
            "unrecorded": unrecorded,
        }
        print_result(facts)
    else:
        _show_findings(findings, repairs)
        for line in removal_lines(_undeclared(paths)):
            typer.echo(line)
    if repair:
        for deleted in delete_damaged(findings):
            typer.echo(f"deleted {deleted}", err=json_wanted())
    if problems:
        raise typer.Exit(1)


def _undeclared(paths: list[Path]) -> list[Undeclared]:
    """What lies in the folder `results` of a workflow, if that is checked, beside what its last run named."""
    folders = [path.parent for path in paths if path.is_dir() and path.name == RESULTS]
    runs = [(folder, read_last_run(folder)) for folder in folders]
    return [entry for folder, run in runs if run is not None for entry in undeclared_results(run.config, folder)]


def _show_findings(findings: list[Finding], repairs: list[str]) -> None:
    console = open_console()
    for finding in findings:
        mark = ("ok ", "green") if finding.ok else ("bad", "red")
        told = Text.assemble("  ", mark, f" {finding.path}  ", (f"{finding.kind}: {finding.detail}", "dim"))
        console.print(told, soft_wrap=True)
        for problem in finding.problems:
            console.print(f"        {problem}", soft_wrap=True)
    bad = sum(not finding.ok for finding in findings)
    unrecorded = sum(not finding.recorded and finding.kind not in ("missing", "record") for finding in findings)
    by_form = f"; {unrecorded} checked by their form alone, as no record has their sha256" if unrecorded else ""
    console.print(f"{len(findings)} file(s) checked, {bad} with problems{by_form}")
    if repairs:
        console.print(
            "Delete what is damaged (--repair does it), and the same run of the workflow again makes it and what follows:"
        )
        for command in repairs:
            console.print(f"    {command}", soft_wrap=True)
