"""`cdgmae report`: the page people look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import (
    ENCODER_HELP,
    ConfigOption,
    SettingsOption,
    load_chosen_config,
    parse_settings,
    print_result,
    refuse_both,
)
from cdgmae.names import STAGES
from cdgmae.paper import PAPER_TABLES
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.report import ReportJobSettings, TableSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Write what people look at: pages about all stages, tables of the paper with ours beside them, figures on your images.\n\n"
    "The pages are an overview (bags of views with their scores, loss curves, propagation scores beside the paper's, unusable images with "
    "reasons, configuration and versions), one per stage, and the consistency explorer. All of it opens from the file system, without network.",
)


ImagesArgument = Annotated[
    list[Path],
    typer.Argument(help="Image files, folders of images, or image shards (.tar); eight of them are shown, evenly spaced."),
]
SheetOption = Annotated[Path, typer.Option("--output", help="Image to write, .png or .jpg.")]


@app.command()
def write(
    results: Annotated[Path, typer.Option("--results", help="Folder with the results of the stages.")] = Path("results"),
    output: Annotated[Path, typer.Option("--output", help="Folder for index.html and what its pages need.")] = Path(
        "results/report"
    ),
    config: ConfigOption = None,
    settings: SettingsOption = None,
) -> None:
    """Write the pages about what the configuration names, as far as results are there; what has not been run is named in them.

    The configuration is --config, or all that the page needs of it as --settings (as the workflow's rule gives it).
    """
    from cdgmae.report.page import write_report
    from cdgmae.storage.files.publishing import published
    from cdgmae.workflow.report import report_settings

    refuse_both("--config", config, "--settings", settings)
    chosen = (
        parse_settings(ReportJobSettings, settings) if settings else report_settings(load_chosen_config(config, results.parent))
    )
    with published(output, inputs=[results / stage for stage in STAGES[:-1] if (results / stage).is_dir()]):
        result = write_report(chosen, results, output)
    print_result(result)


@app.command()
def table(
    name: Annotated[str, typer.Argument(help=f"{', '.join(PAPER_TABLES)}.", metavar="NAME")],
    results: Annotated[Path, typer.Option("--results", help="Folder with the results of the stages.")] = Path("results"),
    output: Annotated[Path, typer.Option("--output", help="Folder for NAME.csv, NAME.md and NAME.html.")] = Path(
        "results/tables"
    ),
    config: ConfigOption = None,
    settings: SettingsOption = None,
) -> None:
    """Write a table of the paper with ours beside it and the difference; cells without data say what is missing.

    What fills each row is said by `report.tables` of --config, or by --settings: a view source (table1, table9) or encoders, one per seed,
    e.g. '{"rows": {"a1": ["cdg_a1", "cdg_a1_seed1"]}}'. Rows that are not named are shown as not configured.

    Example: cdgmae report table table5 --config my.yaml
    """
    from cdgmae.report.table_files import check_table_name, write_paper_table
    from cdgmae.storage.files.publishing import published
    from cdgmae.workflow.report import table_settings

    refuse_both("--config", config, "--settings", settings)
    check_table_name(name)
    chosen = (
        parse_settings(TableSettings, settings) if settings else table_settings(load_chosen_config(config, results.parent), name)
    )
    read = "consistency" if PAPER_TABLES[name].is_of_sources else "propagation"
    with published(*(output / f"{name}.{kind}" for kind in ("html", "csv", "md")), inputs=[results / read]):
        result = write_paper_table(name, chosen, results, output)
    print_result(result)


@app.command()
def attention(
    images: ImagesArgument,
    encoder: Annotated[str, typer.Option("--encoder", help=f"Encoder to look into. {ENCODER_HELP}")],
    output: SheetOption = Path("attention.png"),
) -> None:
    """Draw what an encoder looks at: per image its patch features as colours (three principal components of all images together) and the CLS
    token's attention of every head of the last block."""
    from cdgmae.models.encoders.by_name import load_encoder
    from cdgmae.report.figures.attention_maps import attention_sheet
    from cdgmae.report.figures.chosen_images import read_images
    from cdgmae.runtime.compute import start_compute
    from cdgmae.settings.runtime import RuntimeSettings
    from cdgmae.storage.media.image_sheet import write_sheet

    shown, device = read_images(images), start_compute(RuntimeSettings()).device
    write_sheet(output, attention_sheet(load_encoder(parse_encoder(encoder), device=device), list(shown.values())))
    print_result({"output": str(output), "images": list(shown)})


@app.command()
def reconstructions(
    images: ImagesArgument,
    model: Annotated[
        Path, typer.Option("--model", help="Folder of a finished run, or a checkpoint with its decoder, e.g. CropMAE's .pth.")
    ],
    output: SheetOption = Path("reconstructions.png"),
    settings: SettingsOption = None,
) -> None:
    """Draw what a model reconstructs of your images: the anchor, the masked target, the prediction and the target, two crops of each image.

    A model of normalised patches predicts no brightness and contrast: column `prediction` takes them from the visible patches, column
    `true patch mean and sd` from the answer, which is why it looks better. --settings are those of a run, for a checkpoint alone.
    """
    from cdgmae.report.figures.chosen_images import read_images
    from cdgmae.report.figures.reconstructions import load_model, reconstruction_sheet
    from cdgmae.storage.media.image_sheet import write_sheet

    loaded, trained = load_model(model, parse_settings(PretrainRunSettings, settings))
    shown = read_images(images)
    write_sheet(output, reconstruction_sheet(loaded, trained, shown))
    print_result({"output": str(output), "images": list(shown)})


@app.command()
def strips(
    files: Annotated[list[Path], typer.Argument(help="Strips, e.g. results/propagation/*/strips/davis/dog.jpg.")],
    output: SheetOption = Path("strips.png"),
) -> None:
    """Draw one sequence under several encoders: their strips of painted frames below each other, each below its encoder's name."""
    from cdgmae.report.figures.encoder_strips import stack_strips
    from cdgmae.storage.media.image_sheet import write_sheet

    write_sheet(output, stack_strips(files))
    print_result({"output": str(output), "strips": len(files)})
