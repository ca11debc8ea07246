"""`cdgmae pretrain`: train cross-view masked autoencoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdgmae.commands.options import (
    ConfigOption,
    DeviceOption,
    PrecisionOption,
    RuntimeOption,
    SeedOption,
    SettingsOption,
    ThreadsOption,
    find_tables,
    json_wanted,
    load_chosen_config,
    parse_runtime,
    parse_settings,
    print_result,
    refuse_both,
)
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.reading.messages import did_you_mean
from cdgmae.terminal import ResultTable, key_column, open_console
from cdgmae.workflow.last_run import read_last_run

if TYPE_CHECKING:
    from cdgmae.config import Config

app = typer.Typer(no_args_is_help=True, help="Pre-train a cross-view masked autoencoder on bags of views.")


@app.command("run")
def run(
    shards: Annotated[Path, typer.Option(help="Folder of the image shards, e.g. results/shards/imagenet.")],
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
    work: Annotated[Path | None, typer.Option(help="Folder for the training state; default: OUTPUT/../.work-OUTPUT.")] = None,
    settings: SettingsOption = None,
    seed: SeedOption = 0,
    runtime: RuntimeOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    tracker_dir: Annotated[Path | None, typer.Option(help="Folder for the trackers; default: OUTPUT/trackers.")] = None,
) -> None:
    """Train one run; killed at any moment and started again, it goes on from its last saved state.

    The settings are those of one entry of `pretrain.runs` in config.yaml; without any they are the paper's CDG-MAE-a1. On several
    GPUs or nodes start it with a launcher, e.g. `accelerate launch --num_processes 8 -m cdgmae pretrain run ...` or `torchrun`: the
    global batch is shared out and the result is the same within rounding.

    Example: cdgmae pretrain run --shards results/shards/imagenet --views results/views/s_ldm --output cdg_a3 --settings num_anchors=3
    """
    from cdgmae.pretrain.run import run_pretrain
    from cdgmae.runtime.devices import limit_threads
    from cdgmae.runtime.distribution import is_main_process
    from cdgmae.storage.files.publishing import published
    from cdgmae.storage.image_shards import find_shards

    parsed = parse_settings(PretrainRunSettings, settings)
    if parsed.trains_on_views and views is None:
        raise ValueError(f"pretext {parsed.pretext} needs --views FOLDER, the shards of a view source; or choose pretext crops")
    here = parse_runtime(runtime, device, precision, threads)
    limit_threads(here.thread_limit)
    real = find_shards(shards)
    work_dir = work or output.parent / f".work-{output.name}"
    with published(output, work=work_dir) if is_main_process() else nullcontext():
        result = run_pretrain(
            parsed,
            seed,
            real,
            find_shards(views, real) if views is not None else [],
            output,
            work_dir,
            here,
            score_tables=find_tables(consistency, real) if consistency is not None and parsed.needs_scores else [],
            tracker_dir=tracker_dir or output / "trackers",
        )
    if is_main_process():
        print_result(result)


@app.command("flops")
def flops(
    config: ConfigOption = None,
    run_name: Annotated[str | None, typer.Option("--run", help="Only this run of the configuration.")] = None,
    settings: SettingsOption = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images of the data set (ImageNet-1K: 1281167); default: counted in results/shards.")
    ] = None,
    tflops: Annotated[
        float,
        typer.Option(min=0.001, help="Sustained TFLOP/s to assume; 400 is 40 % of an H100's bf16 peak, 125 that of an A100's."),
    ] = 400.0,
    table8: Annotated[bool, typer.Option("--table8", help="The paper's Table 8 beside the same counts here.")] = False,
) -> None:
    """Say what runs cost: GFLOPs per sample, parameters, GPU hours per seed, and the GPU memory of a training.

    `paper_gflops` follows the paper's Table 8 (multiply-accumulates of linear layers, layer norms, no attention products);
    `true_gflops` counts both operations of every multiply-accumulate, attention included, and `true_gflops_per_step` the
    backward pass with it. `micro_batch_80gb` is the number of samples that a card of 80 GB takes at once in bf16 if one GPU has the
    whole batch, `memory_gib_80gb` what they need. Counted are the runs of --config, else of the last run here; with --settings
    the one run that they describe, e.g. --settings num_anchors=3. What is left out, or all where nothing ran, is the paper's CDG-MAE-a1.

    Example: cdgmae pretrain flops --config my.yaml --images 1281167
    """
    from cdgmae.pretrain.flops import describe_run, table_8
    from cdgmae.pretrain.run_memory import describe_memory

    refuse_both("--settings", settings, "--config" if config else "--run", config or run_name)
    if table8:
        rows = table_8()
        _print_rows({"rows": rows}, rows)
        return
    checked = load_chosen_config(config) if config or not (settings or read_last_run() is None) else None
    runs = _configured_runs(checked, run_name, settings, images)
    limit = checked.runtime.micro_batch_size if checked is not None else None
    described = {
        name: {**describe_run(run, number, tflops), **describe_memory(run, limit)} for name, (run, number) in runs.items()
    }
    _print_rows({"runs": described}, [{"run": name, **row} for name, row in described.items()])
    if not json_wanted() and any(number is None for _, number in runs.values()):
        typer.echo("GPU hours need the number of images: give --images, or run the shards stage first.")


@app.command("export")
def export(
    run_dir: Annotated[Path, typer.Option(help="Folder of a finished run, e.g. results/pretrain/cdg/seed0.")],
    output: Annotated[Path, typer.Option(help="The .pth to write, e.g. checkpoint-99.pth.")],
) -> None:
    """Write a run as a checkpoint in CropMAE's layout, which CropMAE's and SiamMAE's evaluation code loads.

    The encoder alone, as timm loads it, is the run's encoder.safetensors and needs no export.
    """
    from cdgmae.pretrain.export import export_checkpoint

    print_result(export_checkpoint(run_dir, output))


def _configured_runs(
    config: Config | None, run_name: str | None, settings: list[str] | None, images: int | None
) -> dict[str, tuple[PretrainRunSettings, int | None]]:
    """Runs to count by name, each with the number of images of its data set."""
    from cdgmae import names
    from cdgmae.pretrain.flops import count_images

    if config is None:
        if run_name is not None:
            raise ValueError(f"--run {run_name} is one of a configuration, and no workflow ran here: name it with --config FILE")
        return {"settings": (parse_settings(PretrainRunSettings, settings), images)}
    known = config.pretrain.runs
    if not known or (run_name is not None and run_name not in known):
        raise ValueError(
            f"--run {run_name}: the configuration has no such run; it has {', '.join(known)}{did_you_mean(run_name, known)}"
            if run_name is not None and known
            else "the configuration has no runs (pretrain.runs); describe one with --settings, e.g. --settings num_anchors=1"
        )
    chosen = {name: run for name, run in known.items() if run_name in (None, name)}
    datasets = {name: config.views.sources[run.source].dataset for name, run in chosen.items()}
    return {name: (run, images or count_images(Path(names.shards_dir(datasets[name])))) for name, run in chosen.items()}


def _print_rows(result: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for people, one column per run; one JSON object for programs."""
    if json_wanted():
        print_result(result)
        return
    first, *others = rows[0]
    table = ResultTable(key_column(first), *(_cell(row[first]) for row in rows), box=None, header_style="bold")
    for name in others:
        table.add_row(name, *(_cell(row[name]) for row in rows))
    open_console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
