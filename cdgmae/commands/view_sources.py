"""`cdgmae views embed | index | neighbours | random | video | sample-pipeline`: view sources besides the S-LDM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import (
    DeviceOption,
    FinishedOption,
    JsonOption,
    LogIntervalOption,
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
from cdgmae.views.sources.diffusers import PipelineViews
from cdgmae.views.sources.knn import EmbeddingSettings, IndexSettings, NeighbourViews
from cdgmae.views.sources.random import RandomViews
from cdgmae.views.sources.video import ClipViews

ShardsOption = Annotated[Path, typer.Option(help="Folder of all image shards of the data set, e.g. results/shards/imagenet.")]
EmbeddingsOption = Annotated[
    Path, typer.Option(help="Folder of the embedding tables of all shards, e.g. results/embeddings/knn.")
]
OutputOption = Annotated[
    Path, typer.Option(help="View shard to write, e.g. results/views/knn/00000.tar; the index goes beside it.")
]


def embed(
    shard: ShardOption,
    encoder: Annotated[
        str,
        typer.Option(
            help="Encoder to compare images with: encoder.safetensors, a .pth file, a timm name, random:NAME or pixels:P."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Table to write, e.g. results/embeddings/knn/00000.parquet.")],
    settings: SettingsOption = "",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    finished: FinishedOption = None,
    reuse_finished: ReuseFinishedOption = True,
    as_json: JsonOption = False,
) -> None:
    """Embed every image of a shard for the nearest-neighbour search: the encoder's CLS token, scaled to length 1.

    First of three steps of a `knn` source: embed every shard, `index` them together, then fill the bags with `neighbours`.
    """
    from cdgmae.runtime.devices import limit_threads, pick_device
    from cdgmae.storage.files.locks import exclusive_writer
    from cdgmae.storage.files.output_cache import FinishedFolder
    from cdgmae.views.gathering.embedding import embed_images

    parsed, chosen = parse_settings(EmbeddingSettings, settings), pick_device(device)
    limit_threads(threads)
    with exclusive_writer(output):
        result = embed_images(
            parsed, shard, encoder, output, device=chosen, threads=threads or 1, finished=FinishedFolder(finished, reuse_finished)
        )
    print_result(result, as_json)


def index(
    embeddings: EmbeddingsOption,
    output: Annotated[Path, typer.Option(help="Index to write, e.g. results/embeddings/knn/index.faiss.")],
    settings: SettingsOption = "",
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the search index from the embedding tables of all shards: exact up to a million images, an inverted file beyond."""
    from cdgmae.storage.files.locks import exclusive_writer
    from cdgmae.views.gathering.neighbours import build_index

    parsed = parse_settings(IndexSettings, settings)
    with exclusive_writer(output):
        result = build_index(parsed, seed, _tables(embeddings), output, threads=threads or 1)
    print_result(result, as_json)


def neighbours(
    shard: ShardOption,
    shards: ShardsOption,
    embeddings: EmbeddingsOption,
    index: Annotated[Path, typer.Option(help="The data set's index, written by `cdgmae views index`.")],
    output: OutputOption,
    settings: SettingsOption = "",
    threads: ThreadsOption = None,
    finished: FinishedOption = None,
    reuse_finished: ReuseFinishedOption = True,
    as_json: JsonOption = False,
) -> None:
    """Fill the bags of a shard with each image's nearest neighbours in the data set (kind `knn`; paper, Tables 1 and 3).

    Passed over: the image itself, equal files, and near-duplicates above `duplicate_similarity`.
    """
    from cdgmae.storage.files.locks import exclusive_writer
    from cdgmae.storage.files.output_cache import FinishedFolder
    from cdgmae.views.gathering.neighbours import NeighbourSearch, gather_neighbours

    parsed = parse_settings(NeighbourViews, settings)
    with exclusive_writer(output):
        search = NeighbourSearch(parsed, find_shards(shards), _tables(embeddings), index, threads=threads or 1)
        result = gather_neighbours(search, shard, output, finished=FinishedFolder(finished, reuse_finished))
    print_result(result, as_json)


def random(
    shard: ShardOption,
    shards: ShardsOption,
    output: OutputOption,
    settings: SettingsOption = "",
    seed: SeedOption = 0,
    finished: FinishedOption = None,
    reuse_finished: ReuseFinishedOption = True,
    as_json: JsonOption = False,
) -> None:
    """Fill the bags of a shard with other images of the data set, drawn at random (kind `random`; paper, Table 1)."""
    from cdgmae.storage.files.locks import exclusive_writer
    from cdgmae.storage.files.output_cache import FinishedFolder
    from cdgmae.views.gathering.copying import DataSetImages
    from cdgmae.views.gathering.random_views import gather_random

    parsed = parse_settings(RandomViews, settings)
    with exclusive_writer(output):
        images = DataSetImages(find_shards(shards))
        result = gather_random(parsed, seed, shard, images, output, finished=FinishedFolder(finished, reuse_finished))
    print_result(result, as_json)


def video(
    shard: ShardOption,
    output: OutputOption,
    clips: Annotated[str | None, typer.Option(help="Folder of the clips, as it was packed.")] = None,
    settings: SettingsOption = "",
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    finished: FinishedOption = None,
    reuse_finished: ReuseFinishedOption = True,
    as_json: JsonOption = False,
) -> None:
    """Fill the bags of a shard with later frames of their clips, in temporal order (kind `video`; SiamMAE).

    The shards stage drew the first frame of every bag (`cdgmae shards write --layout clips`; only such a data set will do). With
    `frame_gap` the later frames lie at drawn distances (SiamMAE: 4 to 47), with `frame_step` at equal ones.
    """
    from cdgmae.storage.files.locks import exclusive_writer
    from cdgmae.storage.files.output_cache import FinishedFolder
    from cdgmae.views.gathering.clip_frames import read_clips

    parsed = parse_settings(ClipViews, settings, path=clips)
    with exclusive_writer(output):
        result = read_clips(parsed, seed, shard, output, threads=threads or 1, finished=FinishedFolder(finished, reuse_finished))
    print_result(result, as_json)


def sample_pipeline(
    settings: Annotated[
        str,
        typer.Option(
            "--settings", help="The source's settings as JSON text, or a .json/.yaml file: pipeline, path, arguments, ..."
        ),
    ],
    shard: ShardOption,
    output: OutputOption,
    work: Annotated[
        Path | None, typer.Option(help="Folder for finished views until the shard is whole; default: beside OUTPUT.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per call of the pipeline; default: that of the settings.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    log_interval: LogIntervalOption = 30.0,
    finished: FinishedOption = None,
    reuse_finished: ReuseFinishedOption = True,
    as_json: JsonOption = False,
) -> None:
    """Sample the views of a shard from any image-conditioned diffusers pipeline (kind `diffusers`).

    The pipeline is a class of diffusers with weights in safetensors. Every view is a call with its own seed; of an image-to-video
    pipeline the frames of one call can become the views of a bag. Killed and started again, only what is missing is made.

    Example: cdgmae views sample-pipeline --shard 00000.tar --output views/00000.tar --settings '{"pipeline":
    "StableDiffusionImageVariationPipeline", "path": "variations", "arguments": {"num_inference_steps": 25}}'
    """
    from cdgmae.runtime.devices import limit_threads, pick_device, worker_devices
    from cdgmae.storage.files.locks import exclusive_writer
    from cdgmae.storage.files.output_cache import FinishedFolder
    from cdgmae.views.sampling.pipeline_sampler import PipelineRecipe
    from cdgmae.views.sampling.sample_shard import sample_shard

    parsed = parse_settings(PipelineViews, settings, batch_size=batch_size)
    limit_threads(threads)
    devices = worker_devices(pick_device(device), workers)
    with exclusive_writer(output):
        result = sample_shard(
            parsed, seed, shard, PipelineRecipe(parsed, precision), output, work or output.parent / f".work-{output.stem}",
            devices=devices, threads=threads, log_interval_seconds=log_interval,
            finished=FinishedFolder(finished, reuse_finished),
        )  # fmt: skip
    print_result(result, as_json)


def _tables(folder: Path) -> list[Path]:
    """The embedding tables of a folder.

    Raises:
        ValueError: if there are none.
    """
    tables = sorted(folder.glob("*.parquet"))
    if not tables:
        raise ValueError(f"{folder} holds no embedding tables; run `cdgmae views embed` for every shard first")
    return tables


VERBS: dict[str, Callable[..., None]] = {
    "embed": embed,
    "index": index,
    "neighbours": neighbours,
    "random": random,
    "video": video,
    "sample-pipeline": sample_pipeline,
}
"""Verbs of the group `views` that this file adds."""
