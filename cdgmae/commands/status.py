"""`cdgmae status`: what a workflow has done, does and has still to do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Column
from rich.text import Text

from cdgmae.commands.options import ConfigOption, json_wanted, load_chosen_config, print_result
from cdgmae.status.undeclared import Undeclared, removal_lines
from cdgmae.terminal import ResultTable, key_column, open_console

if TYPE_CHECKING:
    from cdgmae.config import Config

LONGEST_MESSAGE = 300
SHOWN_RUNNING = 20
"""Running jobs that are listed; --json has all of them."""


def status(
    config: ConfigOption = None,
    folder: Annotated[
        Path, typer.Option("--folder", help="Working directory of the workflow, with results/, work/ and logs/.")
    ] = Path(),
    watch: Annotated[
        float | None,
        typer.Option("--watch", min=0.1, help="Show it anew every so many seconds, until nothing is left to do or Ctrl-C."),
    ] = None,
) -> None:
    """Show how far the workflow is: every stage with its shards, runs and evaluation sets, the running jobs, and the last errors.

    Told from outputs, locks, logs and unfinished work, and from what Snakemake would still make: it is asked once, and beside a run what
    that run set out to make counts. Where there is Slurm, its waiting and running jobs of this folder are listed with their numbers. It
    takes no lock of Snakemake, may run beside it at any time, on the cluster's login node too, and changes nothing. Rates are those of the
    jobs that run now; the remaining time of a group holds at that number of jobs. A job that stopped early with its state saved is
    waiting: starting the workflow again goes on with it. Results that another version or other settings made are named (of many shards the
    newest and oldest), and so is what lies in results/ beside what the configuration names, with the commands that remove it.

    Example: cdgmae status --watch 10
    """
    if not folder.is_dir():
        raise ValueError(f"--folder {folder}: there is no such folder; give the one in which snakemake was started")
    checked = load_chosen_config(config, folder)
    if not config and (line := _changed_files(checked, folder)) is not None:
        typer.echo(line, err=True)
    try:
        _show(checked, folder, watch)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _changed_files(config: Config, folder: Path) -> str | None:
    """A line about configuration files that say something else than in the last run; None if they say the same."""
    from cdgmae.config import ConfigError, load_config
    from cdgmae.workflow.last_run import changed_keys, read_last_run

    last = read_last_run(folder)
    if last is None:
        return None
    files = [folder / file for file in last.files]
    try:
        changes = changed_keys(config, load_config(*files))
    except ConfigError as error:
        return f"{', '.join(last.files)} cannot be run as it is now: {error}"
    if not changes:
        return None
    shown = f"{changes[0]}, {len(changes) - 1} more" if len(changes) > 1 else changes[0]
    return f"the next run goes by {', '.join(last.files)} as it is now ({shown}); `cdgmae config diff` shows what changed"


def _show(config: Config, folder: Path, watch: float | None) -> None:
    from rich.live import Live

    from cdgmae.status.plan import read_plan
    from cdgmae.status.status_summary import workflow_status

    plan = read_plan(config, folder, time.time())
    summary = workflow_status(config, folder, plan=plan)
    if json_wanted() or watch is None:
        _print(summary)
        while watch is not None and not _is_over(summary):
            time.sleep(watch)
            summary = workflow_status(config, folder, plan=plan)
            _print(summary)
        return
    with Live(_page(summary), console=open_console(), auto_refresh=False) as live:
        while not _is_over(summary):
            time.sleep(watch)
            summary = workflow_status(config, folder, plan=plan)
            live.update(_page(summary), refresh=True)


def _is_over(summary: dict[str, Any]) -> bool:
    return bool(summary["jobs"]["done"] == sum(summary["jobs"].values()))


def _print(summary: dict[str, Any]) -> None:
    if json_wanted():
        print_result(summary)
    else:
        open_console().print(_page(summary))


def _page(summary: dict[str, Any]) -> RenderableType:
    """Groups, running jobs and errors below each other."""
    total = sum(summary["jobs"].values())
    parts: list[RenderableType] = [_groups_table(summary["groups"])]
    if summary["running"]:
        parts.append(_running_table(summary["running"]))
        if len(summary["running"]) > SHOWN_RUNNING:
            parts.append(Text(f"and {len(summary['running']) - SHOWN_RUNNING} more"))
    if summary["queue"]:
        parts.append(_queue_table(summary["queue"]))
    for error in summary["errors"]:
        parts.append(_error_text(error))
    for artifact in summary["made_otherwise"][:SHOWN_RUNNING]:
        parts.append(_line(f"{artifact['rule']} {artifact['name']} was made by {artifact['by']}", "yellow"))
    parts.extend(
        map(_line, removal_lines([Undeclared(left_over["path"], left_over["bytes"]) for left_over in summary["undeclared"]]))
    )
    shown = ", ".join(f"{count} {state}" for state, count in summary["jobs"].items() if count and state != "done")
    parts.append(Text(f"{summary['jobs']['done']} of {total} jobs done" + (f", {shown}" if shown else "")))
    return Group(*parts)


def _groups_table(groups: list[dict[str, Any]]) -> ResultTable:
    words = [key_column(name) for name in ("stage", "")]
    numbers = [Column(name, justify="right") for name in ("done", "running", "failed", "waiting", "to do", "jobs/h", "left")]
    table = ResultTable(*words, *numbers, box=None, header_style="bold", padding=(0, 1, 0, 0))
    former = None
    for group in groups:
        colour = "red" if group["failed"] else "green" if group["done"] == group["total"] else "default"
        rate = group["jobs_per_hour"]
        table.add_row(
            "" if group["stage"] == former else group["stage"], group["group"],
            Text(f"{group['done']}/{group['total']}", style=colour),
            *(str(group[state] or "-") for state in ("running", "failed", "waiting", "to do")),
            f"{rate:.3g}" if rate is not None else "-", _duration(group["seconds_left"]),
        )  # fmt: skip
        former = group["stage"]
    return table


def _running_table(running: list[dict[str, Any]]) -> ResultTable:
    table = ResultTable(
        key_column("running"), "progress", "per second", "left", "log", box=None, header_style="bold", padding=(0, 1, 0, 0)
    )
    for job in running[:SHOWN_RUNNING]:
        line = f"{job['done']}/{job['total']} {job['unit']}" if job["total"] is not None else None
        progress = ", ".join(text for text in (job["kept"], line) if text) or "starting"
        rate = f"{job['per_second']:.3g}" if job["per_second"] is not None else "-"
        table.add_row(f"{job['rule']} {job['name']}", progress, rate, _duration(job["seconds_left"]), job["log"])
    return table


def _queue_table(queue: list[dict[str, Any]]) -> ResultTable:
    table = ResultTable(
        "Slurm job", "state", key_column("of"), "submitted", "reason", box=None, header_style="bold", padding=(0, 1, 0, 0)
    )
    for job in queue[:SHOWN_RUNNING]:
        reason = job["reason"] if job["reason"] != "None" else ""
        table.add_row(job["job"], job["state"], job["what"], f"{_duration(60 * job['minutes'])} ago", reason)
    if len(queue) > SHOWN_RUNNING:
        table.add_row("", "", f"and {len(queue) - SHOWN_RUNNING} more", "", "")
    return table


def _error_text(error: dict[str, Any]) -> Text:
    """A failed job in red, a waiting one in yellow: when, where and why."""
    message = error["message"] if len(error["message"]) <= LONGEST_MESSAGE else error["message"][:LONGEST_MESSAGE] + " ..."
    saved = f"; {error['kept']} kept" if error["kept"] else ""
    head = "failed" if error["state"] == "failed" else "waiting to continue"
    text = _line(f"{head} {_duration(error['seconds_ago'])} ago{saved}: ", "red" if error["state"] == "failed" else "yellow")
    text.append(f"{error['rule']} {error['name']}: {message} ", style="default")
    return text.append(f"({error['log']})", style="bold")


def _line(text: str, style: str = "") -> Text:
    """A text with paths or commands to copy: one line at any width."""
    return Text(text, style=style, no_wrap=True, overflow="ignore")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
