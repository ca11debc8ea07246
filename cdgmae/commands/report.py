"""`cdgmae report`: the page people look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import JsonOption, SettingsOption, parse_settings, print_result
from cdgmae.settings.report import ReportSettings, TableSettings

app = typer.Typer(
    no_args_is_help=True,
    help="What people look at. `write`: static pages about all stages: an overview (bags of views with their scores, loss curves, "
    "propagation scores beside the paper's, unusable images with reasons, configuration and versions) and the consistency explorer. "
    "`table`: a table of the paper with ours beside it. All of it opens from the file system, without network.",
)


@app.command()
def write(
    results: Annotated[Path, typer.Option("--results", help="Folder with the results of the stages.")] = Path("results"),
    output: Annotated[Path, typer.Option("--output", help="Folder for index.html and what its pages need.")] = Path(
        "results/report"
    ),
    settings: SettingsOption = "",
    title: Annotated[str | None, typer.Option("--title", help="Heading of the page.")] = None,
    num_bags: Annotated[int | None, typer.Option("--num-bags", help="Bags of views shown per source. Default 8.")] = None,
    consistency_bags: Annotated[
        int | None,
        typer.Option("--consistency-bags", help="Bags in the consistency explorer, all sources together. Default 240."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the pages from whatever results are there; stages that have not been run are named in them."""
    from cdgmae.report.page import write_report
    from cdgmae.storage.files.locks import exclusive_writer

    chosen = parse_settings(ReportSettings, settings, title=title, num_bags=num_bags, consistency_bags=consistency_bags)
    with exclusive_writer(output):
        result = write_report(chosen, results, output)
    print_result(result, as_json)


@app.command()
def table(
    name: Annotated[
        str,
        typer.Argument(
            help="table1, table3_target, table3_masking, table4, table5, table8, table9, table10, figure4 or figure9.",
            metavar="NAME",
        ),
    ],
    results: Annotated[Path, typer.Option("--results", help="Folder with the results of the stages.")] = Path("results"),
    output: Annotated[Path, typer.Option("--output", help="Folder for NAME.csv, NAME.md and NAME.html.")] = Path(
        "results/tables"
    ),
    settings: SettingsOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write a table of the paper with ours beside it and the difference; cells without data say what is missing.

    The settings name what fills each row: a view source (table1, table9) or encoders, one per seed, e.g.
    '{"rows": {"a1": ["cdg_a1", "cdg_a1_seed1"]}}'. Rows that are not named are shown as not configured.
    """
    from cdgmae.report.table_files import write_paper_table

    print_result(write_paper_table(name, parse_settings(TableSettings, settings), results, output), as_json)
