"""`cdgmae config`: write a configuration, check it, say what changed in it, print its schema."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cdgmae.commands.options import ConfigOption, chosen_files, json_wanted, print_result

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Write a configuration for your own folders, check one without running anything, say what changed in it, or print its JSON schema.",
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
            "--size",
            help="Of what is trained: demo (minutes on two cores), small (a quarter of an hour for few images) or paper (the paper's "
            "values, a cluster).",
        ),
    ] = "small",
    stages: Annotated[
        str | None,
        typer.Option("--stages", help="Stages to write, e.g. shards,views,consistency; all that the folders allow if left out."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="The file to write; it must not exist.")] = Path("my.yaml"),
) -> None:
    """Write a commented configuration for your own images and evaluation sets that runs as it is; where there is no Snakefile, one, too.

    Without --images encoders that exist are judged, by the paper's protocol whatever the size.

    Example: cdgmae config new --images photos --davis data/DAVIS --size small
    """
    from cdgmae.project.new_project import write_missing_snakefile
    from cdgmae.starting.new_config import SIZES, write_new_config

    chosen = next((known for known in SIZES if known == size), None)
    if chosen is None:
        raise ValueError(f"--size {size}: no such size; allowed: {', '.join(SIZES)}")
    folders = {"davis": davis, "vip": vip, "jhmdb": jhmdb, "clips": clips}
    sets = {name: folder for name, folder in folders.items() if folder is not None}
    asked = [stage.strip() for stage in stages.split(",")] if stages is not None else None
    result = write_new_config(output, images, sets, chosen, asked)
    if (snakefile := write_missing_snakefile(Path())) is not None:
        result["snakefile"] = f"{snakefile}: the installed package's workflow, to be started in this folder"
    print_result({**result, "next": f"snakemake --configfile {shlex.quote(str(output))} --cores 2"})


@app.command()
def check(config: ConfigOption = None) -> None:
    """Check a configuration, and the files, folders and timm models that it names, without running anything: every problem is listed at once."""
    from cdgmae.workflow.named_files import load_run

    files = chosen_files(config)
    checked = load_run(*files, others=_timm_problems)
    result: dict[str, Any] = {
        "config": ", ".join(map(str, files)),
        "stages": checked.stages,
        "datasets": list(checked.shards.datasets),
        "sources": list(checked.views.sources),
        "runs": list(checked.pretrain.runs),
        "encoders": list(checked.propagation.encoders),
        "digest": checked.digest(),
    }
    if not json_wanted():
        result = {name: ", ".join(value) if isinstance(value, list) else value for name, value in result.items()}
    print_result(result)


def _timm_problems(values: Mapping[str, Any]) -> list[str]:
    """What timm, which is asked here and nowhere before a job, says of the models that a configuration names."""
    from cdgmae.workflow.named_files import timm_names

    if not (named := list(timm_names(values))):
        return []
    from cdgmae.models.encoders.timm_models import name_problem

    told = ((key, name, name_problem(name, weights=weights)) for key, name, weights in named)
    return [f"{key} = {name!r}: {problem}" for key, name, problem in told if problem is not None]


@app.command()
def diff(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="One file is compared with the last run, two with each other, the old one first; without any the last run's own, as they "
            "are now.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Say which keys differ from the last run, or between two files, as `key: old -> new`, with defaults filled in.

    Example: cdgmae config diff my.yaml
    """
    from cdgmae.config import load_config
    from cdgmae.workflow.last_run import changed_keys, read_last_run

    given, last = list(files or ()), read_last_run()
    if len(given) > 2:
        raise ValueError(f"config diff takes at most two files, found {len(given)}")
    if len(given) < 2 and last is None:
        raise ValueError("nothing was run in this folder; give two files to compare, the old one first")
    if len(given) == 2 or last is None:
        name, old, new = str(given[0]), load_config(given[0]), load_config(given[1])
    else:
        name, old, new = last.name, last.config, load_config(*(given or chosen_files(None)))
    lines = changed_keys(old, new)
    if json_wanted():
        print_result({"old": name, "changed": lines})
    else:
        typer.echo("\n".join(lines) or f"no key differs from {name}")


@app.command()
def schema(output: Annotated[Path | None, typer.Option("--output", help="File to write; printed if left out.")] = None) -> None:
    """Print the JSON schema of the configuration, with every key described; editors use it for completion."""
    from cdgmae.config import json_schema
    from cdgmae.storage.files.atomic import explain_write_errors, write_text

    text = json_schema()
    if output is None:
        typer.echo(text, nl=False)
        return
    with explain_write_errors(output):
        write_text(output, text)
    print_result({"schema": str(output), "bytes": len(text.encode())})
