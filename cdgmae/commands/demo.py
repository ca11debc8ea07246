"""`cdgmae demo`: draw the embedded demo data."""

from __future__ import annotations

import typer

from cdgmae.commands.options import SeedOption, SettingsOption, parse_settings, print_result
from cdgmae.settings.demo import DemoSettings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The embedded demo: images and labelled clips made from photographs inside installed packages, without any download.",
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
