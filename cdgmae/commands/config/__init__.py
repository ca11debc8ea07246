"""`cdgmae config`: write a configuration, check it, say what changed in it, print its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cdgmae.commands.options import json_wanted, print_result

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Write a configuration for your own folders, check one without running anything, or print its JSON schema.",
)

_FOLDERS = "Your folders"


def _folder_option(name: str, text: str) -> Any:
    return typer.Option(f"--{name}", help=text, metavar="DIR", rich_help_panel=_FOLDERS)


@app.command()
def new(
    images: Annotated[
        str | None, _folder_option("images", "Images at any depth, ILSVRC's class tars or WebDataset tars.")
    ] = None,
    davis: Annotated[str | None, _folder_option("davis", "DAVIS-2017 in its official layout.")] = None,
    vip: Annotated[str | None, _folder_option("vip", "VIP (val) in its official layout.")] = None,
    jhmdb: Annotated[str | None, _folder_option("jhmdb", "JHMDB in its official layout.")] = None,
    clips: Annotated[str | None, _folder_option("clips", "Labelled clips of your own in DAVIS's layout.")] = None,
    size: Annotated[
        str,
        typer.Option(
            "--size", help="demo (minutes on two cores), small (about an hour) or paper (the paper's values, a cluster)."
        ),
    ] = "small",
    stages: Annotated[
        str | None,
        typer.Option("--stages", help="Stages to write, e.g. shards,views,consistency; all that the folders allow if left out."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="The file to write; it must not exist.")] = Path("my.yaml"),
) -> None:
    """Write a commented configuration for your own images and evaluation sets that runs as it is.

    Example: cdgmae config new --images photos --davis data/DAVIS --size small
    """
    from cdgmae.starting.new_config import SIZES, write_new_config

    chosen = next((known for known in SIZES if known == size), None)
    if chosen is None:
        raise ValueError(f"--size {size}: no such size; allowed: {', '.join(SIZES)}")
    folders = {"davis": davis, "vip": vip, "jhmdb": jhmdb, "clips": clips}
    sets = {name: folder for name, folder in folders.items() if folder is not None}
    asked = [stage.strip() for stage in stages.split(",")] if stages is not None else None
    result = write_new_config(output, images, sets, chosen, asked)
    print_result({**result, "next": f"snakemake --configfile {output} --cores 2"})


@app.command()
def check(
    config: Annotated[Path, typer.Option("--config", help="The YAML file to check.")] = Path("config.yaml"),
) -> None:
    """Check a configuration: unknown keys, wrong types, impossible combinations and names that do not exist, all in one message."""
    from cdgmae.config import load_config

    checked = load_config(config)
    result: dict[str, Any] = {
        "config": str(config),
        "datasets": list(checked.shards.datasets),
        "sources": list(checked.views.sources),
        "runs": list(checked.pretrain.runs),
        "encoders": list(checked.propagation.encoders),
        "digest": checked.digest(),
    }
    if not json_wanted():
        result = {name: ", ".join(value) if isinstance(value, list) else value for name, value in result.items()}
    print_result(result)


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", help="File to write; printed if left out.")] = None,
) -> None:
    """The JSON schema of the configuration, with every key described; editors use it for completion."""
    from cdgmae.config import json_schema
    from cdgmae.storage.files.atomic import explain_write_errors, write_text

    text = json_schema()
    if output is None:
        typer.echo(text, nl=False)
        return
    with explain_write_errors(output):
        write_text(output, text)
    print_result({"schema": str(output), "bytes": len(text.encode())})
