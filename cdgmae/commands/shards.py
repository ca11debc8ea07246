"""`cdgmae shards`: list an image data set and pack it into image shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import SeedOption, SettingsOption, ThreadsOption, parse_settings, print_result
from cdgmae.names import BAD_IMAGES, LEFT_OUT, shard_index, shard_names
from cdgmae.settings.shards import DatasetSettings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Pack images into tar files with a Parquet index (image shards).\n\n"
    "Input is a tree of images (JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, AVIF) of any depth, ILSVRC's class tars, WebDataset tars, or clips "
    "(video files and folders of frames; each gives one drawn frame). Every image is "
    "decoded once: what cannot be used becomes a row with its reason, and files that are no images stand in "
    "left_out.csv. `cdgmae shards write --root FOLDER --output DIR` does all of it.",
)

ManifestOption = Annotated[Path, typer.Option("--manifest", help="Manifest of the data set; the tars lie beside it.")]


@app.command()
def manifest(
    output: Annotated[Path, typer.Option("--output", help="The manifest to write, e.g. results/shards/NAME/manifest.parquet.")],
    settings: SettingsOption = None,
    seed: SeedOption = 0,
) -> None:
    """List every image once: key, class, size, and the shard it goes to (a seeded shuffle, sizes equal up to one)."""
    from cdgmae.shards.manifest import write_manifest
    from cdgmae.storage.files.publishing import published

    dataset = parse_settings(DatasetSettings, settings)
    with published(output):
        result = write_manifest(dataset, seed, output)
    print_result(result)


@app.command()
def left_out(manifest: Annotated[Path, typer.Argument(help="Manifest of the data set.")]) -> None:
    """Write left_out.csv beside a manifest: every file below the data set's path that was not taken, with the reason."""
    from cdgmae.shards.manifest import write_left_out
    from cdgmae.storage.files.publishing import published

    with published(manifest.with_name(LEFT_OUT)):
        result = write_left_out(manifest)
    print_result(result)


@app.command()
def write(
    output: Annotated[
        Path, typer.Option("--output", help="Folder for all shards; with --manifest, the tar of one, e.g. .../00007.tar.")
    ],
    root: Annotated[str | None, typer.Option("--root", help="Folder of the images or tars, all of which are packed.")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="Write only the shard that --output names.")] = None,
    settings: SettingsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Write shards: a whole data set (manifest, all shards, summary), or a single shard of a manifest.

    The settings are those of one data set of config section shards.datasets (layout, resize, image_size, num_shards, ...). Run it again
    after an interruption: shards that are whole and fit the settings are kept.

    Example: cdgmae shards write --root photos --output packed --settings resize=shorter_side --settings image_size=256
    """
    from cdgmae.shards.packing import write_dataset, write_shard
    from cdgmae.storage.files.publishing import published

    if not settings and root is None:
        raise ValueError("nothing to pack: give --root FOLDER (all images of a folder), or --settings and --manifest (one shard)")
    dataset = parse_settings(DatasetSettings, settings, path=root)
    if manifest is not None:
        limited = "max_bad_fraction" in dataset.model_fields_set
        with published(output, output.with_suffix(".parquet")):
            result = write_shard(dataset, manifest, _shard_of(output), output, threads=threads, stop_early=limited)
    else:
        wanted = dataset.num_shards if "num_shards" in dataset.model_fields_set else None
        with published(output):
            result = write_dataset(dataset, seed, output, num_shards=wanted, threads=threads)
    print_result(result)


@app.command()
def summarise(
    manifest: ManifestOption,
    output: Annotated[Path, typer.Option("--output", help="The summary to write, e.g. results/shards/NAME/summary.parquet.")],
    settings: SettingsOption = None,
    max_bad_fraction: Annotated[
        float | None, typer.Option(help="Fail when a larger share of the images is unusable; default 0.001.")
    ] = None,
) -> None:
    """Check all shards of a data set together: one row per shard, a list of all bad images, and an error when they are too many."""
    from cdgmae.shards.shard_summary import summarise_shards
    from cdgmae.storage.files.publishing import published

    dataset = parse_settings(DatasetSettings, settings, max_bad_fraction=max_bad_fraction)
    tars = [manifest.with_name(f"{name}.tar") for name in shard_names(dataset.num_shards)]
    with published(output, output.with_suffix(".csv"), output.with_name(BAD_IMAGES)):
        result = summarise_shards(dataset, tars, output, manifest=manifest)
    print_result(result)


def _shard_of(output: Path) -> int:
    if output.suffix != ".tar" or not output.stem.isdigit():
        raise ValueError(
            f"--output {output}: with --manifest it must name one shard's tar, such as 00007.tar; its number says which shard"
        )
    return shard_index(output.stem)
