"""Files and settings of stage views."""

from __future__ import annotations

import json
import shlex

from cdgmae import names
from cdgmae.config import Config, ConfigError
from cdgmae.settings.base import Settings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.views import GeneratorTrainingSettings
from cdgmae.views.sources.knn import KnnSource
from cdgmae.views.sources.s_ldm import GeneratorSource
from cdgmae.views.sources.view_source import ViewSettings
from cdgmae.workflow import encoders, shards


def generator_training(config: Config, generator: str) -> GeneratorTrainingSettings:
    """Training settings of a generator.

    Raises:
        ConfigError: if there is no such generator or it is not trained here.
    """
    settings = config.views.generators.get(generator)
    if settings is None or settings.train is None:
        raise ConfigError(f"views.generators.{generator} has no `train` section, so nothing here makes this generator")
    return settings.train


def training_summary(config: Config, generator: str) -> str:
    """The summary of the data set that a generator is trained on."""
    return shards.summary(generator_training(config, generator).dataset)


def training_shards(config: Config, generator: str) -> list[str]:
    """The shards that a generator is trained on."""
    return shards.shard_files(config, generator_training(config, generator).dataset)


def training_shards_folder(config: Config, generator: str) -> str:
    """Their folder."""
    return names.shards_dir(generator_training(config, generator).dataset)


def conditioning_encoder(config: Config, generator: str) -> EncoderSettings:
    """The encoder whose embeddings a generator is trained on."""
    return encoders.loadable_encoder(config, generator_training(config, generator).encoder)


def conditioning_files(config: Config, generator: str) -> list[str]:
    """Its files."""
    return encoders.encoder_files(generator_training(config, generator).encoder)


def first_weights(config: Config, generator: str) -> list[str]:
    """What a training starts from: a learned first stage and another generator, where it has them; of the demo's own the marker."""
    training = generator_training(config, generator)
    given = [path for path in (training.autoencoder.path, training.start_from) if path is not None]
    return [file for path in given for file in encoders.demo_inputs(config, path) or [path]]


def given_for_training(config: Config, generator: str) -> str:
    """What the user gave of these, with its state."""
    return encoders.given_files(config, [*conditioning_files(config, generator), *first_weights(config, generator)])


def dataset_of(config: Config, source: str) -> str:
    """The data set behind a view source."""
    return config.views.sources[source].dataset


def real_files(config: Config, source: str, shard: str) -> list[str]:
    """The shard of real images beside a view shard: its tar, then its index."""
    folder = names.shards_dir(dataset_of(config, source))
    return [f"{folder}/{shard}.tar", f"{folder}/{shard}.parquet"]


def sources_on_gpu(config: Config, on_gpu: bool) -> str:
    """A pattern of the names of the sources whose views are made on a GPU, or of those that are not: each has its rule."""
    return _pattern([name for name, source in config.views.sources.items() if source.has_files and source.on_gpu == on_gpu])


def sources_of_kind(config: Config, kind: str) -> str:
    """A pattern of the names of all sources of a kind."""
    return _pattern([name for name, source in config.views.sources.items() if source.kind == kind])


def view_settings(config: Config, source: str) -> str:
    """The kind of a source and what its views depend on, as JSON."""
    views = _views(config, source)
    settings = views.model_dump(mode="json", exclude=set(views.keys_without_influence))
    return json.dumps({"kind": config.views.sources[source].kind, **settings}, sort_keys=True, separators=(",", ":"))


def view_batch_size(config: Config, source: str) -> int:
    """Views drawn together, 1 where none are drawn: a matter of the machine, so no parameter of the rule."""
    return int(getattr(_views(config, source), "batch_size", 1))


def max_bad_views(config: Config, source: str) -> str:
    """The share of bad views that a source may have, 0 for kinds that know no bad ones: a resource, since no view depends on it."""
    return str(getattr(_views(config, source), "max_bad_fraction", 0.0))


def view_inputs(config: Config, source: str) -> list[str]:
    """What a job of a source reads besides its own shard: with the whole data set its summary, which changes with any shard."""
    settings = config.views.sources[source]
    summary = [shards.summary(settings.dataset)] if settings.reads_all_shards else []
    return [*summary, *settings.inputs(source, config).values()]


def given_files(config: Config, source: str) -> str:
    """What the user gave of these, with its state, which the data set's `notice` tells: a generator, views of another tool."""
    return encoders.given_files(config, view_inputs(config, source), config.shards.datasets[dataset_of(config, source)].notice)


def view_input_flags(config: Config, source: str) -> str:
    """The same for the command line, `--input NAME=PATH` each; of the whole data set its folder."""
    settings = config.views.sources[source]
    inputs = {"shards": names.shards_dir(settings.dataset)} if settings.reads_all_shards else {}
    inputs |= settings.inputs(source, config)
    return " ".join(f"--input {shlex.quote(f'{name}={path}')}" for name, path in inputs.items())


def _views(config: Config, source: str) -> ViewSettings:
    settings = config.views.sources[source]
    return settings.views(config.shards.datasets[settings.dataset])


def generator_source(config: Config, source: str) -> GeneratorSource:
    """A source of kind `s_ldm` or `rcg`.

    Raises:
        ConfigError: if it is of another kind.
    """
    settings = config.views.sources[source]
    if not isinstance(settings, GeneratorSource):
        raise ConfigError(f"views.sources.{source} is of kind {settings.kind}, which samples no generator")
    return settings


def generator_folder(config: Config, source: str) -> str:
    """The generator folder that a source samples from: the given one, or the one trained in this DAG."""
    return generator_source(config, source).inputs(source, config)["generator"]


def knn_source(config: Config, source: str) -> KnnSource:
    """A source of kind `knn`.

    Raises:
        ConfigError: if it is of another kind.
    """
    settings = config.views.sources[source]
    if not isinstance(settings, KnnSource):
        raise ConfigError(f"views.sources.{source} is of kind {settings.kind}, which has no embeddings")
    return settings


def embedding_settings(config: Config, source: str) -> Settings:
    """How the images behind a source are embedded."""
    return knn_source(config, source).embedding


def embedding_encoder(config: Config, source: str) -> EncoderSettings:
    """The encoder that embeds the images behind a source."""
    return encoders.loadable_encoder(config, knn_source(config, source).encoder)


def embedding_encoder_files(config: Config, source: str) -> list[str]:
    """Its files."""
    return encoders.encoder_files(knn_source(config, source).encoder)


def given_to_embed(config: Config, source: str) -> str:
    """What the user gave of these, with its state."""
    return encoders.given_files(config, embedding_encoder_files(config, source))


def index_settings(config: Config, source: str) -> Settings:
    """How the embeddings of a source are indexed."""
    return knn_source(config, source).index


def embedding_tables(config: Config, source: str) -> list[str]:
    """The embedding tables of all shards behind a source of kind `knn`."""
    return [f"{names.embeddings_dir(source)}/{shard}.parquet" for shard in shards.shard_names(config, dataset_of(config, source))]


def view_files(config: Config, source: str) -> list[str]:
    """Tar and index of all view shards of a source; none for a source without files."""
    if not config.views.sources[source].has_files:
        return []
    return names.shard_files(names.views_dir(source), config.shards.datasets[dataset_of(config, source)].num_shards)


def all_view_files(config: Config) -> list[str]:
    """The view shards of all sources."""
    return [file for source in config.views.sources for file in view_files(config, source)]


def trained_generators(config: Config) -> list[str]:
    """The generators that some source samples from and that are trained here."""
    used = dict.fromkeys(source.generator_name for source in config.views.sources.values())
    trained = {name: config.views.generators[name] for name in used if name is not None}
    return [name for name, settings in trained.items() if settings.path is None and settings.train is not None]


def embedded_sources(config: Config) -> list[str]:
    """The sources whose images are embedded and indexed."""
    return [name for name, source in config.views.sources.items() if isinstance(source, KnnSource)]


def results(config: Config) -> list[str]:
    """All files of the stage."""
    embedded = embedded_sources(config)
    return [
        *map(names.generator_dir, trained_generators(config)),
        *(table for source in embedded for table in embedding_tables(config, source)),
        *map(names.embedding_index, embedded),
        *all_view_files(config),
    ]


def _pattern(sources: list[str]) -> str:
    return "|".join(sources) or "(?!)"  # which matches nothing
