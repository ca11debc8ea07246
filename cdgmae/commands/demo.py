"""How one begins: `cdgmae init` writes a folder to work in, `cdgmae demo` draws the embedded demo data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import SeedOption, SettingsOption, json_wanted, parse_settings, print_result
from cdgmae.settings.demo import DemoSettings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Draw the embedded demo: images and labelled clips made from photographs inside installed packages, without any download.",
)


@app.callback()
def _group() -> None:
    """Keep `draw` a verb of its own although it is the only one."""


@app.command()
def draw(settings: SettingsOption = None, seed: SeedOption = 0) -> None:
    """Draw the image tree and the DAVIS, VIP and JHMDB evaluation sets; does nothing if they are there already.

    Tiles are cut from photographs into an ImageNet-like tree. In the clips, pieces of photographs move over a panning photograph, so
    masks, body parts and joints are exact. Equal seeds give equal bytes.
    """
    from cdgmae.demo.draw import draw_demo

    print_result(draw_demo(parse_settings(DemoSettings, settings), seed))


def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder; `.` is the one you are in.")]) -> None:
    """Write a folder to work in: config.yaml (the demo), a Snakefile, a Slurm profile, the paper's settings.

    Example: cdgmae init my-project && cd my-project && snakemake --cores 2
    """
    from cdgmae.project.new_project import write_project

    written = write_project(folder)
    shown = written if json_wanted() else f"{len(written)}, among them config.yaml, which you edit"
    print_result({"folder": str(folder), "files": shown, "next": f"cd {folder} && snakemake --cores 2"})
