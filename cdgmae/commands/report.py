"""`cdgmae report`: the page people look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import SettingsOption, parse_settings, print_result
from cdgmae.config import load_config
from cdgmae.paper import PAPER_TABLES
from cdgmae.settings.report import ReportJobSettings, TableSettings

app = typer.Typer(
    no_args_is_help=True,
    help="What people look at. `write`: static pages about all stages: an overview (bags of views with their scores, loss curves, "
    "propagation scores beside the paper's, unusable images with reasons, configuration and versions) and the consistency explorer. "
    "`table`: a table of the paper with ours beside it. All of it opens from the file system, without network.",
)

ConfigOption = Annotated[
    list[Path], typer.Option("--config", help="The configuration; several files are laid over each other in order.")
]


@app.command()
def write(
    results: Annotated[Path, typer.Option("--results", help="Folder with the results of the stages.")] = Path("results"),
    output: Annotated[Path, typer.Option("--output", help="Folder for index.html and what its pages need.")] = Path(
        "results/report"
    ),
    config: ConfigOption = [Path("config.yaml")],  # noqa: B006
    settings: SettingsOption = None,
) -> None:
    """Write the pages about what the configuration names, as far as results are there; what has not been run is named in them.

    The configuration is --config, or all that the page needs of it as --settings (as the workflow's rule gives it).
    """
    from cdgmae.report.page import write_report
    from cdgmae.storage.files.locks import exclusive_writer
    from cdgmae.workflow.report import report_settings

    chosen = parse_settings(ReportJobSettings, settings) if settings else report_settings(load_config(*config))
    with exclusive_writer(output):
        result = write_report(chosen, results, output)
    print_result(result)


@app.command()
def table(
    name: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(PAPER_TABLES)}.",
            metavar="NAME",
        ),
    ],
    results: Annotated[Path, typer.Option("--results", help="Folder with the results of the stages.")] = Path("results"),
    output: Annotated[Path, typer.Option("--output", help="Folder for NAME.csv, NAME.md and NAME.html.")] = Path(
        "results/tables"
    ),
    config: ConfigOption = [Path("config.yaml")],  # noqa: B006
    settings: SettingsOption = None,
) -> None:
    """Write a table of the paper with ours beside it and the difference; cells without data say what is missing.

    What fills each row is said by `report.tables` of --config, or by --settings: a view source (table1, table9) or encoders, one per seed,
    e.g. '{"rows": {"a1": ["cdg_a1", "cdg_a1_seed1"]}}'. Rows that are not named are shown as not configured.
    """
    from cdgmae.report.table_files import check_table_name, write_paper_table
    from cdgmae.workflow.report import table_settings

    check_table_name(name)
    chosen = parse_settings(TableSettings, settings) if settings else table_settings(load_config(*config), name)
    print_result(write_paper_table(name, chosen, results, output))
