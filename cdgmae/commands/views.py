"""`cdgmae views`: train generators and sample bags of views."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import (
    CheckpointIntervalOption,
    CheckpointStepsOption,
    CompileOption,
    DeviceOption,
    FinishedOption,
    JsonOption,
    KeepCheckpointsOption,
    LoaderWorkersOption,
    LogIntervalOption,
    MicroBatchOption,
    PrecisionOption,
    ReuseFinishedOption,
    SeedOption,
    SettingsOption,
    ShardOption,
    ThreadsOption,
    WorkersOption,
    find_shards,
    parse_settings,
    print_result,
)
from cdgmae.commands.view_plan import plan
from cdgmae.commands.view_sources import VERBS
from cdgmae.settings.views import GeneratorTrainingSettings, SamplingSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Fill bags of views: from a latent diffusion model or any diffusers pipeline, with neighbours, random images or frames of a "
    "clip; look at a bag.",
)


@app.command("train-generator")
def train_generator(
    shards: Annotated[Path, typer.Option(help="Folder of the image shards to train on, e.g. results/shards/imagenet.")],
    encoder: Annotated[
        str,
        typer.Option(help="Frozen conditioning encoder: encoder.safetensors, a .pth file, a timm name, random:NAME or pixels:P."),
    ],
    output: Annotated[Path, typer.Option(help="Generator folder to write, e.g. results/generators/s_ldm.")],
    work: Annotated[Path | None, typer.Option(help="Folder for the training state; default: OUTPUT/../.work-OUTPUT.")] = None,
    settings: SettingsOption = "",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    micro_batch_size: MicroBatchOption = None,
    loader_workers: LoaderWorkersOption = None,
    compile_model: CompileOption = False,
    log_interval: LogIntervalOption = 30.0,
    checkpoint_interval: CheckpointIntervalOption = 900.0,
    checkpoint_steps: CheckpointStepsOption = None,
    keep_checkpoints: KeepCheckpointsOption = 2,
    finished: FinishedOption = None,
    reuse_finished: ReuseFinishedOption = True,
    as_json: JsonOption = False,
) -> None:
    """Train a self-supervised latent diffusion model on image shards.

    Its only condition is the frozen encoder's embedding of an image, so it learns to draw images that mean the same to that
    encoder. The settings are those of `views.generators.NAME.train` in config.yaml; the folder that is written stands alone.
    Latents are computed once and kept under --work. Killed at any moment and started again, it goes on from its last saved
    state. On several GPUs start it with a launcher, e.g. `accelerate launch --num_processes 8 -m cdgmae views train-generator ...`.
    """
    from cdgmae.generators.train.generator_training import train_generator as train
    from cdgmae.runtime.devices import limit_threads, pick_device
    from cdgmae.runtime.distribution import is_main_process
    from cdgmae.storage.files.locks import exclusive_writer
    from cdgmae.storage.files.output_cache import FinishedFolder
    from cdgmae.training.machine import Machine

    parsed = parse_settings(GeneratorTrainingSettings, settings)
    limit_threads(threads)
    machine = Machine(
        device=pick_device(device),
        precision=precision,
        micro_batch_size=micro_batch_size,
        loader_workers=loader_workers,
        compile=compile_model,
        log_interval_seconds=log_interval,
        checkpoint_interval_seconds=checkpoint_interval,
        checkpoint_interval_steps=checkpoint_steps,
        keep_checkpoints=keep_checkpoints,
    )
    with exclusive_writer(output) if is_main_process() else nullcontext():
        result = train(
            parsed,
            seed,
            find_shards(shards),
            encoder,
            output,
            work or output.parent / f".work-{output.name}",
            machine,
            finished=FinishedFolder(finished, reuse_finished),
        )
    if is_main_process():
        print_result(result, as_json)


@app.command("import-generator")
def import_generator(
    checkpoint: Annotated[Path, typer.Argument(help="Lightning checkpoint, RCG's .pth, or .safetensors with the same keys.")],
    config: Annotated[Path, typer.Option(help="YAML configuration that the checkpoint was trained with.")],
    output: Annotated[Path, typer.Option(help="Generator folder to write, e.g. data/generators/gen_sis.")],
    encoder: Annotated[
        str | None,
        typer.Option(help="Conditioning encoder it was trained with: a file or a timm name. RCG's lies inside its checkpoint."),
    ] = None,
    encoder_image_size: Annotated[int, typer.Option(help="Side in pixels at which the encoder sees an image.")] = 224,
    null_condition: Annotated[
        str | None, typer.Option(help="zero_input or zero_token; default: what this kind of generator was trained with.")
    ] = None,
    normalisation: Annotated[
        str | None, typer.Option(help="Of the embedding: l2, standardise or none; default: what the configuration says.")
    ] = None,
    magnification: Annotated[int, typer.Option(help="ZoomLDM's level; 0 is the finest.")] = 0,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Prefix of keys that may be left out; may be given several times.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert an original latent diffusion checkpoint to a generator folder.

    Understood are checkpoints in CompVis layout (Gen-SIS, Large-Image-Diffusion, ZoomLDM) and RCG's LDM-8. The moving average of
    the U-Net is preferred. Every key of the file must find its place: the folder's import_report.json lists them all, and a
    partial match is refused. Nothing in the file is executed.
    """
    from cdgmae.generators.imported.convert import ImportOptions
    from cdgmae.generators.imported.convert import import_generator as convert
    from cdgmae.storage.files.locks import exclusive_writer

    options = ImportOptions(encoder, encoder_image_size, null_condition, normalisation, magnification, ignore or [])
    with exclusive_writer(output):
        result = convert(checkpoint, config, output, options)
    print_result(result, as_json)


@app.command("sample")
def sample(
    shard: ShardOption,
    generator: Annotated[Path, typer.Option(help="Generator folder, e.g. results/generators/s_ldm.")],
    output: Annotated[
        Path, typer.Option(help="View shard to write, e.g. results/views/s_ldm/00000.tar; the index goes beside it.")
    ],
    work: Annotated[
        Path | None, typer.Option(help="Folder for finished views until the shard is whole; default: beside OUTPUT.")
    ] = None,
    settings: SettingsOption = "",
    batch_size: Annotated[int | None, typer.Option(help="Views sampled together; default: that of the settings.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    compiled: CompileOption = False,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    log_interval: LogIntervalOption = 30.0,
    finished: FinishedOption = None,
    reuse_finished: ReuseFinishedOption = True,
    as_json: JsonOption = False,
) -> None:
    """Sample the views of every image of a shard.

    View k of image x depends on (seed, key, k) alone. Finished views are kept as they are made: killed at any moment and
    started again, with any number of processes and any batch size, only what is missing is made. The settings are those of
    `views.sources.NAME.sampling` in config.yaml; without any they are the paper's (4 views, 50 DDIM steps, guidance 6).
    """
    from cdgmae.runtime.devices import limit_threads, pick_device, worker_devices
    from cdgmae.storage.files.locks import exclusive_writer
    from cdgmae.storage.files.output_cache import FinishedFolder
    from cdgmae.views.sampling.generator_sampler import GeneratorRecipe
    from cdgmae.views.sampling.sample_shard import sample_shard

    parsed = parse_settings(SamplingSettings, settings, batch_size=batch_size)
    limit_threads(threads)
    recipe = GeneratorRecipe(generator, parsed, precision, compiled)
    devices = worker_devices(pick_device(device), workers)
    with exclusive_writer(output):
        result = sample_shard(
            parsed, seed, shard, recipe, output, work or output.parent / f".work-{output.stem}", devices=devices,
            threads=threads, log_interval_seconds=log_interval, finished=FinishedFolder(finished, reuse_finished),
        )  # fmt: skip
    print_result(result, as_json)


@app.command("show")
def show(
    key: Annotated[str, typer.Argument(help="Key of the real image, as in the shard's index.")],
    shards: Annotated[Path, typer.Option(help="Folder of the image shards, e.g. results/shards/imagenet.")],
    views: Annotated[Path | None, typer.Option(help="Folder of the view shards, e.g. results/views/s_ldm.")] = None,
    output: Annotated[Path, typer.Option(help="PNG to write.")] = Path("bag.png"),
    as_json: JsonOption = False,
) -> None:
    """Write one bag as a strip of images, the real one first, and print its rows."""
    from cdgmae.views.show import show_bag

    rows = show_bag(key, find_shards(shards), find_shards(views) if views is not None else [], output)
    if as_json:
        print_result({"output": str(output), "rows": rows}, as_json)
        return
    made = ("source_path", "seed", "generator", "sampler", "steps", "guidance", "precision")
    facts = ("status", "reason", "width", "height", *made, "sha256")
    lines = {
        f"view {row['view_index']}": ", ".join(f"{name} {row[name]}" for name in facts if row[name] is not None) for row in rows
    }
    print_result({**lines, "output": str(output)}, as_json)


app.command("plan")(plan)
for _name, _verb in VERBS.items():
    app.command(_name)(_verb)
