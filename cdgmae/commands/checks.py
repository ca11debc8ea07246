"""Commands that check things: `cdgmae verify`, `cdgmae doctor`, `cdgmae config check|schema`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from cdgmae import __version__
from cdgmae.commands.options import JsonOption, RuntimeOption, parse_runtime, print_result
from cdgmae.settings.runtime import RUNTIME_VARIABLE

if TYPE_CHECKING:
    from cdgmae.runtime.environment import PackageState
    from cdgmae.storage.verify import Finding

config_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Check a configuration without running anything, or print its JSON schema.",
)


@config_app.command()
def check(
    config: Annotated[Path, typer.Option("--config", help="The YAML file to check.")] = Path("config.yaml"),
    as_json: JsonOption = False,
) -> None:
    """Check a configuration: unknown keys, wrong types, impossible combinations and names that do not exist, all in one message."""
    from cdgmae.config import load_config

    checked = load_config(config)
    result: dict[str, Any] = {
        "config": str(config),
        "datasets": list(checked.shards.datasets),
        "sources": list(checked.views.sources),
        "runs": list(checked.pretrain.runs),
        "encoders": list(checked.propagation.encoders),
        "digest": checked.digest(),
    }
    if not as_json:
        result = {name: ", ".join(value) if isinstance(value, list) else value for name, value in result.items()}
    print_result(result, as_json)


@config_app.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", help="File to write; printed if left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The JSON schema of the configuration, with every key described; editors use it for completion."""
    from cdgmae.config import json_schema
    from cdgmae.storage.files.atomic import explain_write_errors, write_text

    text = json_schema()
    if output is None:
        typer.echo(json.dumps(json.loads(text)) if as_json else text, nl=as_json)
        return
    with explain_write_errors(output):
        write_text(output, text)
    print_result({"schema": str(output), "bytes": len(text.encode())}, as_json)


def verify(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of any stage, e.g. results/shards.")],
    repair: Annotated[bool, typer.Option("--repair", help="Delete what is damaged; the next run makes it again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Re-check results from their bytes: every file against the sha256 that was recorded when it was written.

    Folders are walked and links followed. Shards, tables, safetensors and JSON are checked by their form too, which says what is damaged
    in them and serves files that no record knows (of earlier versions). Ends with exit code 1 and the list of problems if any file is not
    whole, and with the commands that delete what is damaged, so that the next run of the workflow makes it again; --repair runs them.
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
    if as_json:
        bad_files = sum(not finding.ok for finding in findings)
        unrecorded = [finding.path for finding in findings if not finding.recorded]
        facts = {
            "files": len(findings),
            "bad_files": bad_files,
            "problems": problems,
            "repairs": repairs,
            "unrecorded": unrecorded,
        }
        print_result(facts, True)
    else:
        _show_findings(findings, repairs)
    if repair:
        for deleted in delete_damaged(findings):
            typer.echo(f"deleted {deleted}", err=as_json)
    if problems:
        raise typer.Exit(1)


def _show_findings(findings: list[Finding], repairs: list[str]) -> None:
    console = Console(soft_wrap=True)
    for finding in findings:
        mark = "[green]ok [/green]" if finding.ok else "[red]bad[/red]"
        console.print(
            f"  {mark} {escape(finding.path)}  [dim]{escape(finding.kind)}: {escape(finding.detail)}[/dim]", highlight=False
        )
        for problem in finding.problems:
            console.print(f"        {escape(problem)}", highlight=False)
    bad, unrecorded = (sum(map(bool, facts)) for facts in zip(*((not f.ok, not f.recorded) for f in findings), strict=True))
    by_form = f", {unrecorded} of them by their form alone: no record has their sha256" if unrecorded else ""
    console.print(f"{len(findings)} file(s) checked, {bad} with problems{by_form}", highlight=False)
    if repairs:
        console.print(
            "Delete what is damaged (--repair does it), and the same run of the workflow again makes it and what follows:",
            highlight=False,
        )
        for command in repairs:
            console.print(f"    {escape(command)}", highlight=False)


def doctor(
    folder: Annotated[Path, typer.Option("--folder", help="Where results will lie; its disk space is shown.")] = Path("."),
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Test a Slurm cluster instead, with one short job per class.")
    ] = False,
    profile: Annotated[Path, typer.Option("--profile", help="With --cluster: the Snakemake profile.")] = Path(
        "workflow/profiles/slurm"
    ),
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="MIN", help="With --cluster: minutes until it gives up.")
    ] = 30.0,
    runtime: RuntimeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, which devices exist, and which optional parts are missing and how to get them.

    With [bold]--cluster[/bold]: submit one job of less than ten minutes for the profile's default resources and for each
    different set of resources of its rules, and say what it found: node, GPUs, memory, torch and NCCL, how fast the working folder
    is written, and whether the tasks of a job with several find each other.

    With [bold]--runtime[/bold] '{"compile": true}' a C compiler is among what must be there.

    Ends with exit code 1 if a package that is always needed is missing or too old, or a class of jobs does not work.
    """
    here = parse_runtime(runtime)
    if cluster:
        os.environ[RUNTIME_VARIABLE] = here.canonical_json()  # sbatch hands it to the jobs
        _doctor_cluster(profile, folder, wait, as_json)
        return
    from cdgmae.runtime.environment import compiler_problem, describe_machine, package_states

    states, machine = package_states(), describe_machine(folder)
    broken = [state for state in states if state.extra is None and not state.ok]
    problem = compiler_problem() if here.compile else None
    if as_json:
        packages = {state.name: {"installed": state.installed, "needed": state.needed, "extra": state.extra} for state in states}
        missing = {state.name: state.remedy for state in states if state.remedy}
        print_result({"cdgmae": __version__, **machine, "packages": packages, "missing": missing, "problem": problem}, True)
    else:
        _show_machine(machine, states)
        if problem is not None:
            Console(soft_wrap=True).print(f"problem: {problem}", style="red", highlight=False)
    if broken or problem is not None:
        raise typer.Exit(1)


def _doctor_cluster(profile: Path, folder: Path, wait: float, as_json: bool) -> None:
    from cdgmae.cluster.probe import probe_cluster

    console = Console(soft_wrap=True, highlight=False, markup=False)
    result = probe_cluster(profile, folder, wait, say=(lambda line: None) if as_json else console.print)
    if as_json:
        print_result(result, True)
    else:
        for found in result["classes"]:
            console.print(f"\n{', '.join(found['rules'])}  (job {found['job']})", style="bold")
            for task in found["tasks"]:
                facts = ((name, value) for name, value in task.items() if name != "problems" and value not in (None, []))
                console.print(
                    "  " + ", ".join(f"{name} {'; '.join(value) if name == 'gpus' else value}" for name, value in facts)
                )
            for problem in found["problems"]:
                console.print(f"  problem: {problem}", style="red")
        console.print("\nAll classes work." if result["ok"] else f"\nThere are problems; logs lie in {result['logs']}")
    if not result["ok"]:
        raise typer.Exit(1)


def _show_machine(machine: dict[str, str], states: list[PackageState]) -> None:
    console = Console()
    console.print(f"[bold]cdgmae {__version__}[/bold]", highlight=False)
    for name, value in machine.items():
        console.print(f"  [bold]{name}[/bold]  {escape(value)}", highlight=False, soft_wrap=True)
    table = Table(
        Column("package", overflow="fold"), "needed", "installed", "part", "how to get it", title="Packages", title_justify="left"
    )
    for state in states:
        colour = "green" if state.ok else "yellow" if state.extra else "red"
        installed = f"[{colour}]{escape(state.installed or 'missing')}[/{colour}]"
        table.add_row(state.name, escape(state.needed), installed, state.extra or "core", escape(state.remedy))
    console.print(table)
    console.print("Parts other than core are optional: the remedy installs the whole part.", highlight=False)
