"""`cdgmae export`: results as folders that other software opens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import ConfigOption, load_chosen_config, print_result

app = typer.Typer(
    no_args_is_help=True,
    help="Write results as folders that timm and Hugging Face datasets open, each with a card: what it is, its numbers, how they were "
    "measured, its settings and its licence. Nothing is uploaded.",
)


@app.callback()
def _group() -> None:
    """Keeps `hub` a verb although it is the only one."""


@app.command()
def hub(
    output: Annotated[Path, typer.Option("--output", help="The folder to write; must not exist yet.")],
    encoder: Annotated[
        Path | None, typer.Option("--encoder", help="A finished pre-training run, e.g. results/pretrain/cdg/seed0.")
    ] = None,
    bags: Annotated[str | None, typer.Option("--bags", help="A view source of the configuration, e.g. s_ldm.")] = None,
    config: ConfigOption = None,
    results: Annotated[Path, typer.Option("--results", help="Folder with the results of the stages; the card's numbers.")] = Path(
        "results"
    ),
    licence: Annotated[
        str,
        typer.Option(
            "--license", help="Licence identifier for the card, e.g. cc-by-nc-4.0; without one the card says it is missing."
        ),
    ] = "other",
) -> None:
    """Write one encoder, or the bags of one view source, as a hub folder with a card.

    An encoder opens with timm.create_model("local-dir:FOLDER", pretrained=True); its scores are those of the propagation tables that were
    measured with exactly these weights. Bags open with datasets.load_dataset("FOLDER", "views"); their shards are linked, not copied,
    where the file system allows it.

    Example: cdgmae export hub --encoder results/pretrain/cdg/seed0 --output my-encoder
    """
    if (encoder is None) == (bags is None):
        raise ValueError("give exactly one of --encoder RUN_FOLDER and --bags SOURCE")
    if encoder is not None:
        from cdgmae.interchange.encoder_folder import export_encoder

        result = export_encoder(encoder, output, results=results, licence=licence)
    else:
        result = _bags(bags or "", config, output, results, licence)
    print_result(result)


def _bags(source: str, config: list[Path] | None, output: Path, results: Path, licence: str) -> dict[str, object]:
    from cdgmae import names
    from cdgmae.interchange.bag_folder import export_bags
    from cdgmae.storage.image_shards import find_shards

    sources = load_chosen_config(config, results.parent).views.sources
    if source not in sources or not sources[source].has_files:
        allowed = ", ".join(name for name, settings in sources.items() if settings.has_files)
        raise ValueError(f"--bags {source}: no source with view files of that name; allowed: {allowed or '(none configured)'}")
    # the folders that the workflow's names give, wherever the results lie
    views = results / Path(names.views_dir(source)).relative_to(names.RESULTS)
    real = results / Path(names.shards_dir(sources[source].dataset)).relative_to(names.RESULTS)
    tars = find_shards(real)
    return export_bags(
        source, sources[source].kind, tars, [views / tar.name for tar in tars], output, results=results, licence=licence
    )  # fmt: skip
