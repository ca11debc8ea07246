"""`cdgmae views plan`: what sampling the configured data set costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdgmae import names
from cdgmae.commands.options import (
    ConfigOption,
    DeviceOption,
    PrecisionOption,
    json_wanted,
    load_chosen_config,
    parse_runtime,
    print_result,
)
from cdgmae.settings.reading.messages import did_you_mean
from cdgmae.workflow.last_run import how_to_run

if TYPE_CHECKING:
    from cdgmae.config import Config
    from cdgmae.settings.runtime import RuntimeSettings
    from cdgmae.views.sampling.cost import Rate

SourceOption = Annotated[
    str | None, typer.Option("--source", help="View source of the configuration; may be left out if only one is sampled.")
]


def plan(
    config: ConfigOption = None,
    source: SourceOption = None,
    measure: Annotated[bool, typer.Option("--measure", help="Sample a few batches of the first shard to get the rate.")] = False,
    seconds_per_view: Annotated[
        float | None, typer.Option(min=1e-6, help="Device seconds per view, from an earlier measurement.")
    ] = None,
    bytes_per_view: Annotated[
        float | None, typer.Option(min=1, help="Encoded bytes per view; default: measured or estimated.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images of the data set; default: counted.")] = None,
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs to give wall times for.")] = "1,8,32,64",
    device: DeviceOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Estimate GPU hours, wall time by number of GPUs, bytes and files of a view source.

    Results are looked for beside the configuration. The rate is measured on this machine (`--measure`: needs the generator and one
    shard) or given (`--seconds-per-view`). The views that are drawn for the measurement are thrown away.
    """
    from cdgmae.views.sampling.cost import Rate, count_images, plan_sampling
    from cdgmae.workflow import shards, views

    if measure == (seconds_per_view is not None):
        raise ValueError("give either --measure (sample a few batches here) or --seconds-per-view (a rate measured before)")
    loaded, numbers = load_chosen_config(config), _gpu_numbers(gpus)
    source = _sampled_source(loaded, source)
    dataset, root = views.dataset_of(loaded, source), config[0].parent if config else Path()
    folder = root / names.shards_dir(dataset)
    tars = [folder / f"{name}.tar" for name in shards.shard_names(loaded, dataset) if (folder / f"{name}.parquet").is_file()]
    num_shards = len(shards.shard_names(loaded, dataset))
    origin = "--images"
    if images is None:
        images, origin = count_images(root / names.shards_dir(dataset) / names.MANIFEST, tars, num_shards)
    if seconds_per_view is not None:
        rate = Rate(seconds_per_view, bytes_per_view or _estimated_bytes(loaded, source, root, tars), "--seconds-per-view")
    else:
        runtime = parse_runtime([loaded.runtime.canonical_json()], device, precision)
        rate = _measured(loaded, source, root, tars, runtime, bytes_per_view)
    result = {"source": source, **plan_sampling(images, num_shards, loaded.views.sources[source].num_views, rate, numbers)}
    if not json_wanted():
        result["images"] = f"{images} ({origin})"
        result["bytes"] = f"{result['bytes']:,}"
        result["seconds_per_view"] = f"{rate.seconds:.4g}"
        result["gpu_hours"] = f"{result['gpu_hours']:.4g}"
        result["hours_per_shard"] = f"{result['hours_per_shard']:.4g}"
        result["wall_hours"] = ", ".join(f"{number} GPU: {hours:.3g}" for number, hours in result["wall_hours"].items())
    print_result(result)


def _gpu_numbers(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise ValueError(f"--gpus {text}: give numbers from 1 on, separated by commas, e.g. 1,8,64")
    return numbers


def _sampled_source(config: Config, source: str | None) -> str:
    sampled = [name for name, settings in config.views.sources.items() if settings.generator_name is not None]
    if source is None and len(sampled) == 1:
        return sampled[0]
    if not sampled:
        raise ValueError("no source of the configuration (views.sources) is drawn by a generator, so there is nothing to plan")
    if source not in sampled:
        given = f"--source {source}: no such source is" if source is not None else "several sources are"
        raise ValueError(
            f"{given} drawn by a generator; give --source with one of {', '.join(sampled)}{did_you_mean(source or '', sampled)}"
        )
    return source


def _measured(
    config: Config, source: str, root: Path, tars: list[Path], runtime: RuntimeSettings, bytes_per_view: float | None
) -> Rate:
    from dataclasses import replace

    from cdgmae.runtime.compute import start_compute
    from cdgmae.views.sampling.cost import measure_rate
    from cdgmae.views.sampling.generator_sampler import GeneratorRecipe
    from cdgmae.workflow import views

    if not tars:
        raise ValueError(
            f"no shard of {views.dataset_of(config, source)} exists yet, so there is nothing to measure with; {how_to_run('shards')}"
        )
    generator, settings = views.generator_folder(config, source), views.generator_source(config, source).sampling
    compute = start_compute(runtime)
    recipe = GeneratorRecipe(root / generator, settings, compute.precision, runtime.compile)
    rate = measure_rate(settings, config.seed, tars[0], recipe, compute.device)
    return replace(rate, bytes=bytes_per_view) if bytes_per_view else rate


def _estimated_bytes(config: Config, source: str, root: Path, tars: list[Path]) -> float:
    from cdgmae.generators.generator_folder import read_metadata
    from cdgmae.views.sampling.cost import stored_bytes_per_view
    from cdgmae.workflow import views

    if not tars:
        raise ValueError(
            "without shards the size of a view cannot be estimated: give --bytes-per-view (about 40000 at 256 pixels)"
        )
    metadata: Any = read_metadata(root / views.generator_folder(config, source))
    return stored_bytes_per_view(tars, metadata.image_size)
