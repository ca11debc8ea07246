"""`cdgmae views`: train generators, fill bags of views, look at a bag."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import (
    ENCODER_HELP,
    DeviceOption,
    PrecisionOption,
    RuntimeOption,
    SeedOption,
    SettingsOption,
    ThreadsOption,
    json_wanted,
    parse_runtime,
    parse_settings,
    print_result,
)
from cdgmae.commands.views.view_embeddings import embed, index
from cdgmae.commands.views.view_making import make
from cdgmae.commands.views.view_plan import plan
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.views import GeneratorTrainingSettings, ImportSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Fill bags of views: from a latent diffusion model or any diffusers pipeline, with neighbours, random images, frames of a clip "
    "or the files of another tool; look at a bag.",
)


@app.command("train-generator")
def train_generator(
    shards: Annotated[Path, typer.Option(help="Folder of the image shards to train on, e.g. results/shards/imagenet.")],
    encoder: Annotated[str, typer.Option(help=f"Frozen conditioning encoder. {ENCODER_HELP}")],
    output: Annotated[Path, typer.Option(help="Generator folder to write, e.g. results/generators/s_ldm.")],
    work: Annotated[Path | None, typer.Option(help="Folder for the training state; default: OUTPUT/../.work-OUTPUT.")] = None,
    settings: SettingsOption = None,
    seed: SeedOption = 0,
    runtime: RuntimeOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    tracker_dir: Annotated[Path | None, typer.Option(help="Folder for the trackers; left out: none.")] = None,
) -> None:
    """Train a self-supervised latent diffusion model on image shards.

    Its only condition is the frozen encoder's embedding of an image, so it learns to draw images that mean the same to that
    encoder. The settings are those of `views.generators.NAME.train` in config.yaml; the folder that is written stands alone.
    Latents are computed once and kept under --work. Killed at any moment and started again, it goes on from its last saved
    state. On several GPUs start it with a launcher, e.g. `accelerate launch --num_processes 8 -m cdgmae views train-generator ...`.
    """
    from cdgmae.generators.train.generator_training import train_generator as train
    from cdgmae.runtime.devices import limit_threads
    from cdgmae.runtime.distribution import is_main_process
    from cdgmae.storage.files.publishing import published
    from cdgmae.storage.image_shards import find_shards

    parsed = parse_settings(GeneratorTrainingSettings, settings)
    here = parse_runtime(runtime, device, precision, threads)
    limit_threads(here.thread_limit)
    work_dir = work or output.parent / f".work-{output.name}"
    with published(output, work=work_dir) if is_main_process() else nullcontext():
        result = train(parsed, seed, find_shards(shards), parse_encoder(encoder), output, work_dir, here, tracker_dir=tracker_dir)
    if is_main_process():
        print_result(result)


@app.command("import-generator")
def import_generator(
    checkpoint: Annotated[Path, typer.Argument(help="Lightning checkpoint, RCG's .pth, or .safetensors with the same keys.")],
    config: Annotated[Path, typer.Option(help="YAML configuration that the checkpoint was trained with.")],
    output: Annotated[Path, typer.Option(help="Generator folder to write, e.g. data/generators/gen_sis.")],
    encoder: Annotated[
        str | None,
        typer.Option(help=f"Conditioning encoder it was trained with; RCG's lies inside its checkpoint. {ENCODER_HELP}"),
    ] = None,
    settings: SettingsOption = None,
) -> None:
    """Convert an original latent diffusion checkpoint to a generator folder.

    Understood are checkpoints in CompVis layout (Gen-SIS, Large-Image-Diffusion, ZoomLDM) and RCG's LDM-8. The moving average of
    the U-Net is preferred. Every key of the file must find its place: the folder's import_report.json lists them all, and a
    partial match is refused. Nothing in the file is executed.

    The settings say what the checkpoint does not: encoder_image_size, null_condition, normalisation, magnification, ignore, e.g.
    --settings encoder_image_size=256 --settings 'ignore=[cond_stage_model.backbone.]'.
    """
    from cdgmae.generators.imported.convert import import_generator as convert
    from cdgmae.storage.files.publishing import published

    given = parse_encoder(encoder).model_dump(mode="json") if encoder else None
    options = parse_settings(ImportSettings, settings, encoder=given)
    with published(output):
        result = convert(checkpoint, config, output, options)
    print_result(result)


@app.command("show")
def show(
    keys: Annotated[list[str], typer.Argument(help="Keys of real images, as in the shards' index; each is a row.")],
    shards: Annotated[Path, typer.Option(help="Folder of the image shards, e.g. results/shards/imagenet.")],
    views: Annotated[Path | None, typer.Option(help="Folder of the view shards, e.g. results/views/s_ldm.")] = None,
    output: Annotated[Path, typer.Option(help="PNG to write.")] = Path("bag.png"),
) -> None:
    """Write bags as strips of images below each other, the real one first, and print their rows."""
    from cdgmae.storage.image_shards import find_shards
    from cdgmae.views.show import show_bags

    rows = show_bags(keys, find_shards(shards), find_shards(views) if views is not None else [], output)
    if json_wanted():
        print_result({"output": str(output), "rows": rows})
        return
    columns = ("source_path", "seed", "generator", "sampler", "steps", "guidance", "precision")
    shown = ("status", "reason", "width", "height", *columns, "sha256")
    lines = {
        f"{row['key']}, view {row['view_index']}": ", ".join(f"{name} {row[name]}" for name in shown if row[name] is not None)
        for row in rows
    }
    print_result({**lines, "output": str(output)})


app.command("make")(make)
app.command("embed")(embed)
app.command("index")(index)
app.command("plan")(plan)
