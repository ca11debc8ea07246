"""Files and settings of stage views."""

from __future__ import annotations

import json
import shlex

from cdgmae import names
from cdgmae.config import ConfigError
from cdgmae.jobs.shards import ShardJobs
from cdgmae.settings.views import GeneratorTrainingSettings
from cdgmae.views.sources.knn import KnnSource
from cdgmae.views.sources.s_ldm import GeneratorSource
from cdgmae.views.sources.view_source import ViewSettings


class ViewJobs(ShardJobs):
    """Jobs that train generators and fill bags of views."""

    def generator_training(self, generator: str) -> GeneratorTrainingSettings:
        """Training settings of a generator.

        Raises:
            ConfigError: if there is no such generator or it is not trained here.
        """
        settings = self.config.views.generators.get(generator)
        if settings is None or settings.train is None:
            raise ConfigError(f"views.generators.{generator} has no `train` section, so nothing here makes this generator")
        return settings.train

    def first_stage_folders(self, generator: str) -> list[str]:
        """The folder of a generator's learned first stage, if it has one."""
        path = self.generator_training(generator).autoencoder.path
        return [path] if path is not None else []

    def dataset_of(self, source: str) -> str:
        """The data set behind a view source."""
        return self.config.views.sources[source].dataset

    def real_files(self, source: str, shard: str) -> list[str]:
        """The shard of real images beside a view shard: its tar, then its index."""
        folder = names.shards_dir(self.dataset_of(source))
        return [f"{folder}/{shard}.tar", f"{folder}/{shard}.parquet"]

    def sources_on_gpu(self, on_gpu: bool) -> str:
        """A pattern of the names of the sources whose views are made on a GPU, or of those that are not: each has its rule."""
        return _pattern(
            [name for name, source in self.config.views.sources.items() if source.has_files and source.on_gpu == on_gpu]
        )

    def sources_of_kind(self, kind: str) -> str:
        """A pattern of the names of all sources of a kind."""
        return _pattern([name for name, source in self.config.views.sources.items() if source.kind == kind])

    def view_settings(self, source: str) -> str:
        """The kind of a source and what its views depend on, as JSON."""
        views = self._views(source)
        settings = views.model_dump(mode="json", exclude=set(views.machine_keys))
        return json.dumps({"kind": self.config.views.sources[source].kind, **settings}, sort_keys=True, separators=(",", ":"))

    def view_batch_size(self, source: str) -> int:
        """Views drawn together, 1 where none are drawn: a matter of the machine, so no parameter of the rule."""
        return int(getattr(self._views(source), "batch_size", 1))

    def view_inputs(self, source: str) -> list[str]:
        """What a job of a source reads besides its own shard: with the whole data set its summary, which changes with any shard."""
        settings = self.config.views.sources[source]
        summary = [self.shard_gate(settings.dataset)] if settings.reads_all_shards else []
        return [*summary, *settings.inputs(source, self.config).values()]

    def view_input_flags(self, source: str) -> str:
        """The same for the command line, `--input NAME=PATH` each; of the whole data set its folder."""
        settings = self.config.views.sources[source]
        inputs = {"shards": names.shards_dir(settings.dataset)} if settings.reads_all_shards else {}
        inputs |= settings.inputs(source, self.config)
        return " ".join(f"--input {shlex.quote(f'{name}={path}')}" for name, path in inputs.items())

    def _views(self, source: str) -> ViewSettings:
        settings = self.config.views.sources[source]
        return settings.views(self.config.shards.datasets[settings.dataset])

    def generator_source(self, source: str) -> GeneratorSource:
        """A source of kind `s_ldm` or `rcg`.

        Raises:
            ConfigError: if it is of another kind.
        """
        settings = self.config.views.sources[source]
        if not isinstance(settings, GeneratorSource):
            raise ConfigError(f"views.sources.{source} is of kind {settings.kind}, which samples no generator")
        return settings

    def generator_folder(self, source: str) -> str:
        """The generator folder that a source samples from: the given one, or the one trained in this DAG."""
        return self.generator_source(source).inputs(source, self.config)["generator"]

    def knn_source(self, source: str) -> KnnSource:
        """A source of kind `knn`.

        Raises:
            ConfigError: if it is of another kind.
        """
        settings = self.config.views.sources[source]
        if not isinstance(settings, KnnSource):
            raise ConfigError(f"views.sources.{source} is of kind {settings.kind}, which has no embeddings")
        return settings

    def embedding_tables(self, source: str) -> list[str]:
        """The embedding tables of all shards behind a source of kind `knn`."""
        return [f"{names.embeddings_dir(source)}/{shard}.parquet" for shard in self.shard_names(self.dataset_of(source))]

    def view_files(self, source: str) -> list[str]:
        """Tar and index of all view shards of a source; none for a source without files."""
        if not self.config.views.sources[source].has_files:
            return []
        return names.shard_files(names.views_dir(source), self.config.shards.datasets[self.dataset_of(source)].num_shards)

    def all_view_files(self) -> list[str]:
        """The view shards of all sources."""
        return [file for source in self.config.views.sources for file in self.view_files(source)]


def _pattern(sources: list[str]) -> str:
    return "|".join(sources) or "(?!)"  # which matches nothing
