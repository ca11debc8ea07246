"""Commands `cdgmae cluster ...`: what a Slurm cluster needs besides snakemake itself."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cdgmae.commands.options import RuntimeOption, json_wanted, parse_runtime, print_result
from cdgmae.terminal import open_console

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="On a Slurm cluster: run the workflow there, start a command on several GPUs and nodes, find and end the jobs that a killed "
    "snakemake left behind.\n\n"
    "`cdgmae doctor --cluster` tests each resource class of the profile with one short job.",
)

SILENT = {
    "alive": "their snakemake is running here; left alone",
    "elsewhere": "their snakemake was started on host {host}, where alone one can tell whether it runs: repeat this command there",
    "unknown": "no log in .snakemake/log tells where their snakemake runs (deleted, or quiet); if it is gone: scancel --name {run}",
}


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    controller_gone: Annotated[
        bool, typer.Option("--controller-gone", help="The last snakemake was started on another host and is certainly gone.")
    ] = False,
) -> None:
    """Run the workflow on the cluster: start here, and start again here after anything (kill -9, lost terminal, reboot).

    If the last snakemake of this folder is dead, its jobs that are still queued or running are cancelled and its lock is removed; finished
    work and saved states stay. If one runs, or may run on another host, nothing happens but a message. Then this command becomes
    `snakemake --workflow-profile workflow/profiles/slurm ...` with all other arguments. Keep it in tmux, or in a long job of its own.

    Example: cdgmae cluster run --configfile my.yaml
    """
    import sys

    from cdgmae.cluster.restart import DRY_RUN, make_ready, run_snakemake, snakemake_line, working_folder

    line = snakemake_line(sys.executable, context.args)
    if DRY_RUN.isdisjoint(context.args):
        done = make_ready(working_folder(context.args), controller_gone)
        if done["cancelled"]:
            typer.echo(f"Cancelled {len(done['cancelled'])} job(s) of a snakemake that is gone: {', '.join(done['cancelled'])}.")
        if done["locks"]:
            typer.echo("Removed the lock of a snakemake that is gone.")
    run_snakemake(line)


@app.command()
def sweep(
    folder: Annotated[Path, typer.Option("--folder", help="The folder in which snakemake was started.")] = Path("."),
    cancel: Annotated[bool, typer.Option("--cancel", help="End these jobs, and wait until they have left the queue.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="MIN", help="Only jobs submitted more than so many minutes ago.")
    ] = 0.0,
) -> None:
    """Find the jobs of this workflow whose snakemake process is gone (killed, lost terminal); `--cancel` ends them.

    `cdgmae cluster run` does so before it starts snakemake again, which does not take over running jobs and would have their work done twice. Jobs of
    other workflows and folders, and those of a snakemake that runs or may run on another host, are never touched. Only `squeue`
    and `scancel` are needed. Ends with exit code 1 if a cancelled job is still there after two minutes.
    """
    from cdgmae.cluster.sweep import sweep as sweep_queue

    result = sweep_queue(folder, cancel, older_than)
    if json_wanted():
        print_result(result)
    else:
        _show_sweep(result, cancel)
    if result["still_there"]:
        raise typer.Exit(1)


def _show_sweep(result: dict[str, Any], cancel: bool) -> None:
    console = open_console()
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
            f"{len(result['cancelled'])} leftover job(s) ended. Go on: `cdgmae cluster run`, with the same arguments as before."
        )


@app.command()
def launch(
    launcher: Annotated[
        Literal["none", "torchrun", "srun"],
        typer.Argument(
            help="none: the command as it is. torchrun: several processes on this machine. srun: processes of the Slurm job that this "
            "runs in, on one node or several."
        ),
    ],
    command: Annotated[list[str], typer.Argument(help="After `--`: the command with its arguments.")],
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes of the job.")] = 1,
    ranks_per_node: Annotated[
        int, typer.Option("--ranks-per-node", min=1, help="Processes per node: one per GPU that the command shall use.")
    ] = 1,
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            help="Files and folders below results/ that the command writes, separated by spaces: they get a second name in work/finished/, "
            "from which they are put back when they were deleted and the same command runs on the same files.",
        ),
    ] = "",
    runtime: RuntimeOption = None,
) -> None:
    """Start a command as one process, or one per GPU, on a laptop as in a Slurm job; the workflow's GPU rules do so.

    Example, in a script for sbatch with --nodes=4 --ntasks-per-node=8 --gres=gpu:8 --requeue --signal=USR1@600:

    cdgmae cluster launch srun --nodes 4 --ranks-per-node 8 -- cdgmae pretrain run --settings run.yaml ...

    Trainings (pretrain run, views train-generator) share out every batch, propagation run the clips. Sampling is one process that starts
    one more per GPU that it sees, so it needs one task on one node. With launcher srun the command is told to stop 5 minutes (of a short
    job: a tenth) before the job's time limit. It then saves its state and ends with exit code 85, as it does on SIGUSR1 and SIGTERM, and the
    job goes back into Slurm's queue, where it starts again after about two minutes under the same number. Where that is not
    possible (cancelled, submitted with --no-requeue, 50 times before, or again within its first minute) the exit code is 85:
    run it again and it continues.
    """
    from cdgmae.cluster.launch import Shape
    from cdgmae.cluster.launch import launch as start

    cache = None
    if keep:
        from cdgmae.storage.files.output_cache import OutputCache

        cache = OutputCache.of_command(
            command, [Path(output) for output in keep.split()], precision=parse_runtime(runtime).precision
        )
    raise typer.Exit(start(launcher, Shape(nodes, ranks_per_node), command, cache=cache))


@app.command()
def probe(
    reports: Annotated[Path, typer.Option("--reports", help="Existing folder for this task's report, RANK.json.")],
    folder: Annotated[Path, typer.Option("--folder", help="The working folder, whose write speed is measured.")] = Path("."),
    config: Annotated[
        list[Path] | None, typer.Option("--config", help="A configuration: its networks of the hub are loaded, without network.")
    ] = None,
    runtime: RuntimeOption = None,
) -> None:
    """Say what this task of a Slurm job finds on its node; `cdgmae doctor --cluster` runs this in each of its jobs."""
    from cdgmae.cluster.node import probe_node
    from cdgmae.commands.fetch import load_networks
    from cdgmae.config import load_config
    from cdgmae.storage.hub import OFFLINE_VARIABLE

    os.environ.setdefault(OFFLINE_VARIABLE, "1")  # as the workflow's jobs do
    networks = partial(load_networks, load_config(*config), config) if config else None
    print_result(probe_node(folder, reports, compiles=parse_runtime(runtime).compile, load_networks=networks))
