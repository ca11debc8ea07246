"""`cdgmae pretrain`: train cross-view masked autoencoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import (
    CheckpointIntervalOption,
    DeviceOption,
    JsonOption,
    LogIntervalOption,
    PrecisionOption,
    SeedOption,
    SettingsOption,
    ThreadsOption,
    find_shards,
    parse_settings,
    print_result,
)
from cdgmae.settings.pretrain import PretrainRunSettings

app = typer.Typer(no_args_is_help=True, help="Pre-train a cross-view masked autoencoder on bags of views.")


@app.command("run")
def run(
    shards: Annotated[Path, typer.Option(help="Folder of the picture shards, e.g. results/shards/imagenet.")],
    output: Annotated[
        Path, typer.Option(help="Folder for encoder.safetensors, model.safetensors, config.json and metrics.parquet.")
    ],
    views: Annotated[
        Path | None, typer.Option(help="Folder of the view shards, e.g. results/views/s_ldm; not for pretext crops or mae.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for the training state; default: OUTPUT/../.work-OUTPUT.")] = None,
    settings: SettingsOption = "",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    log_interval: LogIntervalOption = 30.0,
    checkpoint_interval: CheckpointIntervalOption = 900.0,
    as_json: JsonOption = False,
) -> None:
    """Train one run; killed at any moment and started again, it goes on from its last saved state.

    The settings are those of one entry of `pretrain.runs` in config.yaml; without any they are the paper's CDG-MAE-a1.
    """
    from cdgmae.pretrain.run import run_pretrain
    from cdgmae.runtime.devices import limit_threads, pick_device
    from cdgmae.storage.locks import exclusive_writer

    parsed = parse_settings(PretrainRunSettings, settings)
    if parsed.pretext == "cross_view" and views is None:
        raise ValueError("pretext cross_view needs --views FOLDER, the shards of a view source; or choose pretext crops")
    limit_threads(threads)
    with exclusive_writer(output):
        result = run_pretrain(
            parsed,
            seed,
            find_shards(shards),
            find_shards(views) if views is not None else [],
            output,
            work or output.parent / f".work-{output.name}",
            device=pick_device(device),
            precision=precision,
            log_interval_seconds=log_interval,
            checkpoint_interval_seconds=checkpoint_interval,
        )
    print_result(result, as_json)
