"""`cdgmae report`: the page people look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import JsonOption, SettingsOption, parse_settings, print_result
from cdgmae.settings.report import ReportSettings

app = typer.Typer(
    no_args_is_help=True,
    help="One static page about all stages: bags of views with their scores, loss curves, propagation scores beside the paper's, "
    "unusable pictures with reasons, configuration and versions. It opens from the file system, without network or scripts.",
)


@app.callback()
def _group() -> None:
    """Keeps `write` a verb although it is the only one."""


@app.command()
def write(
    results: Annotated[Path, typer.Option("--results", help="Folder with the results of the stages.")] = Path("results"),
    output: Annotated[Path, typer.Option("--output", help="Folder for index.html and figures/.")] = Path("results/report"),
    settings: SettingsOption = "",
    title: Annotated[str | None, typer.Option("--title", help="Heading of the page.")] = None,
    num_bags: Annotated[int | None, typer.Option("--num-bags", help="Bags of views shown per source. Default 8.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the page from whatever results are there; stages that have not been run are named in it."""
    from cdgmae.report.page import write_report
    from cdgmae.storage.locks import exclusive_writer

    chosen = parse_settings(ReportSettings, settings, title=title, num_bags=num_bags)
    with exclusive_writer(output):
        result = write_report(chosen, results, output)
    print_result(result, as_json)
