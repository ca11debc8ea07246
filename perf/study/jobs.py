"""The stage commands behind a configuration, as the workflow's rules give them, in an order that needs no Snakemake."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cdgmae import names
from cdgmae.config import Config
from cdgmae.workflow import consistency, pretrain, propagation, shards, views
from perf.study.choice import GUIDED, consistent_run, nearest_scale, score_files


@dataclass(frozen=True, slots=True)
class Job:
    """One command.

    Attributes:
        name: Rule and what it works on.
        urgency: Of those that can start, the smallest goes first.
        inputs: Files that must be there.
        outputs: Files that are there, under their final names, once it is done.
        arguments: Of `cdgmae`; asked when the job starts.
    """

    name: str
    urgency: int
    inputs: list[str]
    outputs: list[str]
    arguments: Callable[[], list[str]]

    @property
    def is_done(self) -> bool:
        """Whether all outputs are there."""
        return all(Path(path).exists() for path in self.outputs)

    @property
    def can_start(self) -> bool:
        """Whether all inputs are there."""
        return all(Path(path).exists() for path in self.inputs)


def study_jobs(config: Config) -> list[Job]:
    """All jobs up to the scores of every encoder; the report is left out."""
    return [
        *(job for dataset in config.shards.datasets for job in _shard_jobs(config, dataset)),
        *(job for source in config.views.sources for job in _view_jobs(config, source)),
        *(_training_of_generator(config, name) for name in views.trained_generators(config)),
        *(job for source in config.consistency.sources for job in _score_jobs(config, source)),
        *(_pretraining(config, run, seed) for seed in config.pretrain.seeds for run in config.pretrain.runs),
        *(
            _propagation(config, encoder, evaluation_set)
            for encoder in config.propagation.encoders
            for evaluation_set in config.propagation.datasets
        ),
    ]


def _job(name: str, urgency: int, inputs: list[str], outputs: list[str], *words: object) -> Job:
    arguments = [text for word in words if (text := str(word))]
    return Job(name, urgency, inputs, outputs, lambda: arguments)


def _shard_jobs(config: Config, dataset: str) -> Iterator[Job]:
    folder = names.shards_dir(dataset)
    manifest = f"{folder}/{names.MANIFEST}"
    yield _job(
        f"write_manifest {dataset}", 0, [], [manifest],
        "shards", "manifest", "--settings", shards.listing_settings(config, dataset), "--seed", config.seed, "--output", manifest,
    )  # fmt: skip
    for shard in shards.shard_names(config, dataset):
        tar, index = f"{folder}/{shard}.tar", f"{folder}/{shard}.parquet"
        yield _job(
            f"write_shard {dataset} {shard}", 0, [manifest], [tar, index],
            "shards", "write", "--settings", shards.packing_settings(config, dataset), "--manifest", manifest, "--output", tar,
        )  # fmt: skip
    summary = shards.summary(dataset)
    yield _job(
        f"summarise_shards {dataset}", 0, [manifest, *shards.shard_files(config, dataset)], [summary],
        "shards", "summarise", "--settings", shards.summary_settings(config, dataset), "--manifest", manifest,
        "--max-bad-fraction", shards.max_bad_images(config, dataset), "--output", summary,
    )  # fmt: skip


def _view_jobs(config: Config, source: str) -> Iterator[Job]:
    if not config.views.sources[source].has_files:
        return
    if source in views.embedded_sources(config):
        yield from _embedding_jobs(config, source)
    for shard in shards.shard_names(config, views.dataset_of(config, source)):
        tar, index = f"{names.views_dir(source)}/{shard}.tar", f"{names.views_dir(source)}/{shard}.parquet"
        real = views.real_files(config, source, shard)
        inputs = [*real, *views.view_inputs(config, source)]
        job = _job(
            f"make_views {source} {shard}", 3, inputs, [tar, index],
            "views", "make", "--settings", views.view_settings(config, source), "--seed", config.seed, "--shard", real[0],
            *shlex.split(views.view_input_flags(config, source)), "--output", tar, "--work", f"work/views/make/{source}/{shard}",
            "--batch-size", views.view_batch_size(config, source), "--max-bad-fraction", views.max_bad_views(config, source),
        )  # fmt: skip
        yield _at_nearest_scale(config, job) if source == GUIDED else job


def _at_nearest_scale(config: Config, job: Job) -> Job:
    """The job with the guidance scale that the scores choose, once they are there."""

    def arguments() -> list[str]:
        words = job.arguments()
        place = words.index("--settings") + 1
        settings = json.loads(words[place]) | {"guidance_scale": nearest_scale(config)}
        words[place] = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return words

    return replace(job, inputs=[*job.inputs, *map(str, score_files(config))], arguments=arguments)


def _embedding_jobs(config: Config, source: str) -> Iterator[Job]:
    for shard in shards.shard_names(config, views.dataset_of(config, source)):
        real, table = views.real_files(config, source, shard), f"{names.embeddings_dir(source)}/{shard}.parquet"
        yield _job(
            f"embed_images {source} {shard}", 3, [*real, *views.embedding_encoder_files(config, source)], [table],
            "views", "embed", "--settings", views.embedding_settings(config, source).canonical_json(), "--shard", real[0],
            "--encoder", views.embedding_encoder(config, source).canonical_json(), "--output", table,
        )  # fmt: skip
    index = names.embedding_index(source)
    yield _job(
        f"index_embeddings {source}", 3, views.embedding_tables(config, source), [index],
        "views", "index", "--settings", views.index_settings(config, source).canonical_json(), "--seed", config.seed,
        "--embeddings", names.embeddings_dir(source), "--output", index,
    )  # fmt: skip


def _training_of_generator(config: Config, generator: str) -> Job:
    folder = names.generator_dir(generator)
    inputs = [
        views.training_summary(config, generator), *views.training_shards(config, generator), *views.conditioning_files(config, generator),
        *views.first_weights(config, generator),
    ]  # fmt: skip
    return _job(
        f"train_generator {generator}", 2, inputs, [folder],
        "views", "train-generator", "--settings", views.generator_training(config, generator).canonical_json(), "--seed", config.seed,
        "--shards", views.training_shards_folder(config, generator),
        "--encoder", views.conditioning_encoder(config, generator).canonical_json(), "--output", folder,
        "--work", f"work/views/train_generator/{generator}", "--tracker-dir", f"logs/trackers/generators/{generator}",
    )  # fmt: skip


def _score_jobs(config: Config, source: str) -> Iterator[Job]:
    for shard in shards.shard_names(config, views.dataset_of(config, source)):
        real, table = views.real_files(config, source, shard), f"{names.consistency_dir(source)}/{shard}.parquet"
        inputs = [*real, *consistency.scored_views(config, source, shard), *consistency.scoring_encoder_files(config)]
        yield _job(
            f"score_views {source} {shard}", 3, inputs, [table],
            "consistency", "score", "--settings", consistency.scoring_settings(config, source), "--real", real[0],
            *shlex.split(consistency.scored_views_flag(config, source, shard)),
            "--encoder", consistency.scoring_encoder(config).canonical_json(), "--source", source,
            "--kind", consistency.source_kind(config, source), "--output", table, "--work", f"work/consistency/{source}/{shard}",
            "--batch-size", config.consistency.batch_size, "--max-bad-fraction", config.consistency.max_bad_fraction,
        )  # fmt: skip


def _pretraining(config: Config, run: str, seed: int) -> Job:
    folder, settings = names.run_dir(run, seed), pretrain.run_settings(config, run)
    scores = pretrain.run_scores(config, run)

    def arguments() -> list[str]:
        chosen = settings if settings.view_filter is None else consistent_run(settings, list(map(Path, scores)))
        words = [
            "pretrain", "run", "--settings", chosen.canonical_json(), "--seed", pretrain.run_seed(config, str(seed)),
            "--shards", pretrain.run_shards_folder(config, run), *shlex.split(pretrain.run_views_flag(config, run)),
            *shlex.split(pretrain.run_scores_flag(config, run)), "--output", folder, "--work", f"work/pretrain/{run}/seed{seed}",
            "--tracker-dir", f"logs/trackers/{run}/seed{seed}",
        ]  # fmt: skip
        return list(map(str, words))

    inputs = [pretrain.run_summary(config, run), *pretrain.run_images(config, run), *pretrain.run_views(config, run), *scores]
    return Job(f"pretrain_encoder {run} {seed}", 4, inputs, [names.encoder_file(run, seed)], arguments)


def _propagation(config: Config, encoder: str, evaluation_set: str) -> Job:
    table = names.propagation_table(encoder, evaluation_set)
    return _job(
        f"propagate_labels {encoder} {evaluation_set}", 1, propagation.judged_files(config, encoder), [table],
        "propagation", "run", propagation.kind(config, evaluation_set), "--set", evaluation_set,
        "--settings", propagation.protocol(config, evaluation_set).canonical_json(),
        "--encoder", propagation.loadable_encoder(config, encoder).canonical_json(), "--name", encoder,
        *shlex.split(propagation.seed_option(config, encoder)), "--output", Path(table).parent,
        "--work", f"work/propagation/{encoder}/{evaluation_set}",
    )  # fmt: skip


def summary_job(config: Config) -> Job:
    """The summary of the sources whose pairs are all scored by now; without inputs if none is."""
    tables = {source: consistency.score_tables(config, source) for source in config.consistency.sources}
    scored = {source: paths for source, paths in tables.items() if all(Path(path).exists() for path in paths)}
    summary = f"{names.RESULTS}/consistency/summary.parquet"
    return _job(
        "summarise_consistency", 0, [path for paths in scored.values() for path in paths], [summary],
        "consistency", "summarise", "--settings", json.dumps({"num_shards": {source: len(paths) for source, paths in scored.items()}}),
        "--results", f"{names.RESULTS}/consistency", "--output", summary,
    )  # fmt: skip
