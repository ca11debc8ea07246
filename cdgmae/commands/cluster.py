"""Commands `cdgmae cluster ...`: what a Slurm cluster needs besides snakemake itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cdgmae.commands.options import JsonOption, print_result

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="On a Slurm cluster: find and end the jobs that a killed snakemake left behind.\n\n"
    "`cdgmae doctor --cluster` tests each resource class of the profile with one short job.",
)

SILENT = {
    "alive": "their snakemake is running here; left alone",
    "elsewhere": "their snakemake was started on host {host}, where alone one can tell whether it runs: repeat this command there",
    "unknown": "no log in .snakemake/log tells where their snakemake runs (deleted, or quiet); if it is gone: scancel --name {run}",
}


@app.command()
def sweep(
    folder: Annotated[Path, typer.Option("--folder", help="The folder in which snakemake was started.")] = Path("."),
    cancel: Annotated[bool, typer.Option("--cancel", help="End these jobs, and wait until they have left the queue.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="MIN", help="Only jobs submitted more than so many minutes ago.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Find the jobs of this workflow whose snakemake process is gone (killed, lost terminal); `--cancel` ends them.

    Do so before starting snakemake again: it does not take over running jobs, and would have their work done twice. Jobs of
    other workflows and folders, and those of a snakemake that runs or may run on another host, are never touched. Only `squeue`
    and `scancel` are needed. Ends with exit code 1 if a cancelled job is still there after two minutes.
    """
    from cdgmae.cluster.sweep import sweep as sweep_queue

    result = sweep_queue(folder, cancel, older_than)
    if as_json:
        print_result(result, True)
    else:
        _show_sweep(result, cancel)
    if result["still_there"]:
        raise typer.Exit(1)


def _show_sweep(result: dict[str, Any], cancel: bool) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for run in result["runs"]:
        if run["controller"] in SILENT:
            console.print(f"{run['jobs']} job(s) of {run['run']}: " + SILENT[run["controller"]].format(**run))
    for job in result["leftover"]:
        console.print(f"  job {job['job']}  {job['state']}, submitted {job['minutes']:.0f} min ago: {job['what']}")
    if not result["leftover"]:
        console.print("No leftover jobs.")
    elif not cancel:
        console.print(f"{len(result['leftover'])} leftover job(s): their snakemake is gone. End them with --cancel.")
    elif result["still_there"]:
        console.print(
            f"Cancelled, but not yet gone: {', '.join(result['still_there'])}. Wait until `squeue --me` is rid of them."
        )
    else:
        console.print(
            f"{len(result['cancelled'])} leftover job(s) ended. Go on: `snakemake --unlock ...`, then snakemake as before."
        )


@app.command()
def probe(
    reports: Annotated[Path, typer.Option("--reports", help="Existing folder for this task's report, RANK.json.")],
    folder: Annotated[Path, typer.Option("--folder", help="The working folder, whose write speed is measured.")] = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Say what this task of a Slurm job finds on its node; `cdgmae doctor --cluster` runs this in each of its jobs."""
    from cdgmae.cluster.node import probe_node

    print_result(probe_node(folder, reports), as_json)
