"""`cdgmae views embed | index`: what comes before the bags of a `knn` source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdgmae.commands.options import (
    ENCODER_HELP,
    DeviceOption,
    RuntimeOption,
    SeedOption,
    SettingsOption,
    ShardOption,
    ThreadsOption,
    parse_runtime,
    parse_settings,
    print_result,
    refuse_failed_data_set,
)
from cdgmae.settings.encoder import parse_encoder
from cdgmae.views.sources.knn import EmbeddingSettings, IndexSettings

EmbeddingsOption = Annotated[
    Path, typer.Option(help="Folder of the embedding tables of all shards, e.g. results/embeddings/knn.")
]


def embed(
    shard: ShardOption,
    encoder: Annotated[str, typer.Option(help=f"Encoder to compare images with. {ENCODER_HELP}")],
    output: Annotated[Path, typer.Option(help="Table to write, e.g. results/embeddings/knn/00000.parquet.")],
    settings: SettingsOption = None,
    runtime: RuntimeOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Embed every image of a shard for the nearest-neighbour search: the encoder's CLS token, scaled to length 1.

    First of three steps of a `knn` source: embed every shard, `index` them together, then `make` the views.
    """
    from cdgmae.runtime.devices import limit_threads
    from cdgmae.storage.files.publishing import published
    from cdgmae.views.gathering.embedding import embed_images

    parsed, here = parse_settings(EmbeddingSettings, settings), parse_runtime(runtime, device, threads=threads)
    limit_threads(here.thread_limit)
    refuse_failed_data_set(shard)
    with published(output):
        result = embed_images(parsed, shard, parse_encoder(encoder), output, runtime=here)
    print_result(result)


def index(
    embeddings: EmbeddingsOption,
    output: Annotated[Path, typer.Option(help="Index to write, e.g. results/embeddings/knn/index.faiss.")],
    settings: SettingsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Build the search index from the embedding tables of all shards: exact up to a million images, an inverted file beyond."""
    from cdgmae.storage.files.publishing import published
    from cdgmae.views.gathering.neighbours import build_index, embedding_tables

    parsed = parse_settings(IndexSettings, settings)
    with published(output):
        result = build_index(parsed, seed, embedding_tables(embeddings), output, threads=threads or 1)
    print_result(result)
