"""`cdgmae pretrain`: train cross-view masked autoencoders."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import (
    CheckpointIntervalOption,
    CheckpointStepsOption,
    CompileOption,
    DeviceOption,
    JsonOption,
    KeepCheckpointsOption,
    LoaderWorkersOption,
    LogIntervalOption,
    MicroBatchOption,
    PrecisionOption,
    SeedOption,
    SettingsOption,
    ThreadsOption,
    TrackersOption,
    find_shards,
    find_tables,
    parse_settings,
    print_result,
)
from cdgmae.settings.pretrain import PretrainRunSettings

app = typer.Typer(no_args_is_help=True, help="Pre-train a cross-view masked autoencoder on bags of views.")


@app.command("run")
def run(
    shards: Annotated[Path, typer.Option(help="Folder of the picture shards, e.g. results/shards/imagenet.")],
    output: Annotated[
        Path, typer.Option(help="Folder for encoder.safetensors, model.safetensors, config.json, metrics.parquet and panels/.")
    ],
    views: Annotated[
        Path | None, typer.Option(help="Folder of the view shards, e.g. results/views/s_ldm; not for pretext crops or mae.")
    ] = None,
    consistency: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the views' score tables, e.g. results/consistency/s_ldm; for runs with view_filter or view_weight."
        ),
    ] = None,
    stage_in: Annotated[
        str | None,
        typer.Option(
            envvar="CDGMAE_STAGE_IN",
            help="Folder on a disk of this machine, e.g. '$TMPDIR': shards are copied there once, and read from there.",
        ),
    ] = None,
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
    trackers: TrackersOption = "tensorboard",
    tracker_dir: Annotated[Path | None, typer.Option(help="Folder for the trackers; default: OUTPUT/trackers.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train one run; killed at any moment and started again, it goes on from its last saved state.

    The settings are those of one entry of `pretrain.runs` in config.yaml; without any they are the paper's CDG-MAE-a1. On several
    GPUs or nodes start it with a launcher, e.g. `accelerate launch --num_processes 8 -m cdgmae pretrain run ...` or `torchrun`: the
    global batch is shared out and the result is the same within rounding.
    """
    from cdgmae.pretrain.run import run_pretrain
    from cdgmae.runtime.devices import limit_threads, pick_device
    from cdgmae.runtime.distribution import is_main_process
    from cdgmae.storage.locks import exclusive_writer
    from cdgmae.training.machine import Machine

    parsed = parse_settings(PretrainRunSettings, settings)
    if parsed.trains_on_views and views is None:
        raise ValueError(f"pretext {parsed.pretext} needs --views FOLDER, the shards of a view source; or choose pretext crops")
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
        trackers=tuple(filter(None, trackers.split(","))),
        tracker_dir=tracker_dir or output / "trackers",
    )
    with exclusive_writer(output) if is_main_process() else nullcontext():
        result = run_pretrain(
            parsed,
            seed,
            find_shards(shards),
            find_shards(views) if views is not None else [],
            output,
            work or output.parent / f".work-{output.name}",
            machine,
            score_tables=find_tables(consistency) if consistency is not None and parsed.needs_scores else [],
            local_folder=Path(os.path.expandvars(stage_in)) if stage_in else None,
        )
    if is_main_process():
        print_result(result, as_json)
