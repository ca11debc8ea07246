"""Commands that check the machine: `cdgmae doctor`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cdgmae import __version__
from cdgmae.commands.options import DEFAULT_CONFIG, RuntimeOption, json_wanted, parse_runtime, print_result
from cdgmae.settings.runtime import RUNTIME_VARIABLE
from cdgmae.terminal import ResultTable, key_column, open_console
from cdgmae.workflow.last_run import read_last_run

if TYPE_CHECKING:
    from cdgmae.runtime.environment import PackageState


def doctor(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--folder", help="Where results will lie; its disk space is shown.")] = Path("."),
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Test a Slurm cluster instead, with one short job per class.")
    ] = False,
    profile: Annotated[Path, typer.Option("--profile", help="With --cluster: the Snakemake profile.")] = Path(
        "workflow/profiles/slurm"
    ),
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            help="With --cluster: the configuration whose networks are tried. Left out: as the last run in FOLDER had it, else config.yaml "
            "there.",
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="MIN", help="With --cluster: minutes until it gives up.")
    ] = 30.0,
    runtime: RuntimeOption = None,
) -> None:
    """Say what is installed, which devices exist, and which optional parts are missing and how to get them.

    With --cluster: submit one job of less than ten minutes for the profile's default resources and for each
    different set of resources of its rules, and say what it found: node, GPUs, memory, torch and NCCL, how fast the working folder
    is written, whether the tasks of a job with several find each other, and whether the networks of the hub that the configuration
    names load there without network (if not, `cdgmae fetch` fetches them).

    With --runtime '{"compile": true}' a C compiler is among what must be there.

    Ends with exit code 1 if a package that is always needed is missing or too old, or a class of jobs does not work.
    """
    here = parse_runtime(runtime)
    given = (name for name in ("profile", "config", "wait") if str(context.get_parameter_source(name)).endswith("COMMANDLINE"))
    if not cluster and (option := next(given, None)) is not None:
        raise ValueError(
            f"--{option} says what is tried on a cluster, and `cdgmae doctor` alone looks at this machine: give --cluster, too"
        )
    if cluster:
        os.environ[RUNTIME_VARIABLE] = here.canonical_json()  # sbatch hands it to the jobs
        last = read_last_run(folder)
        default = [folder / file for file in (last.files if last is not None else (DEFAULT_CONFIG,))]
        _doctor_cluster(profile, folder, config or [file for file in default if file.is_file()], wait)
        return
    from cdgmae.runtime.environment import compiler_problem, describe_machine, package_states

    states, machine = package_states(), describe_machine(folder)
    broken = [state for state in states if state.extra is None and not state.ok]
    problem = compiler_problem() if here.compile else None
    if json_wanted():
        packages = {state.name: {"installed": state.installed, "needed": state.needed, "extra": state.extra} for state in states}
        missing = {state.name: state.remedy for state in states if state.remedy}
        print_result({"cdgmae": __version__, **machine, "packages": packages, "missing": missing, "problem": problem})
    else:
        _show_machine(machine, states)
        if problem is not None:
            open_console().print(f"problem: {problem}", style="red", soft_wrap=True)
    if broken or problem is not None:
        raise typer.Exit(1)


def _doctor_cluster(profile: Path, folder: Path, config: list[Path], wait: float) -> None:
    from cdgmae.cluster.probe import probe_cluster
    from cdgmae.config import load_config

    if config:
        load_config(*config)  # what is wrong with it is said here, and not by every job

    console = open_console()
    result = probe_cluster(profile, folder, config, wait, say=(lambda line: None) if json_wanted() else console.print)
    if json_wanted():
        print_result(result)
    else:
        for node_class in result["classes"]:
            console.print(f"\n{', '.join(node_class['rules'])}  (job {node_class['job']})", style="bold")
            for task in node_class["tasks"]:
                shown = ((name, value) for name, value in task.items() if name != "problems" and value not in (None, []))
                console.print(
                    "  " + ", ".join(f"{name} {'; '.join(value) if name == 'gpus' else value}" for name, value in shown)
                )
            for problem in node_class["problems"]:
                console.print(f"  problem: {problem}", style="red")
        console.print("\nAll classes work." if result["ok"] else f"\nThere are problems; logs lie in {result['logs']}")
    if not result["ok"]:
        raise typer.Exit(1)


def _show_machine(machine: dict[str, str], states: list[PackageState]) -> None:
    console = open_console()
    console.print(f"cdgmae {__version__}", style="bold")
    for name, value in machine.items():
        console.print(Text.assemble("  ", (name, "bold"), f"  {value}"), soft_wrap=True)
    table = ResultTable(
        "package", "needed", "installed", "part", key_column("how to get it"), title="Packages", title_justify="left"
    )
    for state in states:
        colour = "green" if state.ok else "yellow" if state.extra else "red"
        installed = Text(state.installed or "missing", style=colour)
        table.add_row(state.name, state.needed, installed, state.extra or "core", state.remedy)
    console.print(table)
    console.print("Parts other than core are optional: the remedy installs the whole part.")
