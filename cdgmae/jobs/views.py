"""Files and settings of stage views."""

from __future__ import annotations

from typing import TypeVar

from cdgmae import names
from cdgmae.config import ConfigError
from cdgmae.jobs.shards import ShardJobs
from cdgmae.settings.base import Settings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.views import GeneratorTrainingSettings, SamplingSettings
from cdgmae.views.sources.diffusers import DiffusersSource, PipelineViews
from cdgmae.views.sources.knn import EmbeddingSettings, IndexSettings, KnnSource, NeighbourViews
from cdgmae.views.sources.random import RandomViews
from cdgmae.views.sources.s_ldm import GeneratorSource
from cdgmae.views.sources.video import VideoSource
from cdgmae.views.sources.view_source import ViewSource

AnySource = TypeVar("AnySource", bound=ViewSource)

SETTINGS_OF_VERB: dict[str, type[Settings]] = {
    "embed": EmbeddingSettings,
    "index": IndexSettings,
    "neighbours": NeighbourViews,
    "random": RandomViews,
}


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

    def generator_folder(self, source: str) -> str:
        """The generator folder that a source samples from: the given one, or the one trained in this DAG."""
        generator = self.config.views.sources[source].generator_name or ""
        return self.config.views.generators[generator].path or names.generator_dir(generator)

    def dataset_of(self, source: str) -> str:
        """The data set behind a view source."""
        return self.config.views.sources[source].dataset

    def real_files(self, source: str, shard: str) -> list[str]:
        """The shard of real images beside a view shard: its tar, then its index."""
        folder = names.shards_dir(self.dataset_of(source))
        return [f"{folder}/{shard}.tar", f"{folder}/{shard}.parquet"]

    def all_real_images(self, source: str) -> str:
        """The summary that changes with any shard of the data set behind a source whose bags are filled from all of them."""
        return self.shard_gate(self.dataset_of(source))

    def source_pattern(self, *kinds: str) -> str:
        """A pattern of the names of all sources of these kinds: it says which rule fills which bags."""
        found = [name for name, source in self.config.views.sources.items() if source.kind in kinds]
        return "|".join(found) or "(?!)"  # which matches nothing

    def sampling(self, source: str) -> SamplingSettings:
        """How a source of kind `s_ldm` or `rcg` is sampled."""
        return self._source(GeneratorSource, source).sampling

    def sampling_settings(self, source: str) -> str:
        """What the views of a source of kind `s_ldm` or `rcg` depend on, as JSON: everything but the batch size."""
        return self.sampling(source).canonical_json(exclude={"batch_size"})

    def sampling_batch_size(self, source: str) -> int:
        """Rows drawn together: a matter of the machine, so no parameter of the rule."""
        settings = self.config.views.sources[source]
        return (settings if isinstance(settings, DiffusersSource) else self.sampling(source)).batch_size

    def pipeline_settings(self, source: str) -> str:
        """What the views of a source of kind `diffusers` depend on, as JSON: everything but the batch size."""
        settings = self._source(DiffusersSource, source)
        return settings.canonical_json(include=set(PipelineViews.model_fields) - {"batch_size"})

    def embedding_tables(self, source: str) -> list[str]:
        """The embedding tables of all shards behind a source of kind `knn`."""
        return [f"{names.embeddings_dir(source)}/{shard}.parquet" for shard in self.shard_names(self.dataset_of(source))]

    def source_settings(self, source: str, verb: str) -> str:
        """What the command `cdgmae views VERB` needs of a source's settings, as JSON."""
        return self.config.views.sources[source].canonical_json(include=set(SETTINGS_OF_VERB[verb].model_fields))

    def source_encoder(self, source: str) -> EncoderSettings:
        """The embedding encoder of a source of kind `knn`."""
        return self._source(KnnSource, source).encoder

    def clip_settings(self, source: str) -> str:
        """Settings of a source of kind `video` and how its data set's images were prepared, as JSON."""
        settings = self._source(VideoSource, source)
        dataset = self.config.shards.datasets[settings.dataset]
        return settings.views(dataset).canonical_json()

    def pipeline_files(self, source: str) -> list[str]:
        """The folder of a source of kind `diffusers`; nothing for a name on the hub."""
        path = self._source(DiffusersSource, source).path
        return [path] if path is not None else []

    def _source(self, kind: type[AnySource], name: str) -> AnySource:
        """A source of a known kind.

        Raises:
            ConfigError: if it is of another kind.
        """
        settings = self.config.views.sources[name]
        if not isinstance(settings, kind):
            raise ConfigError(f"views.sources.{name} is of kind {settings.kind}; another rule makes its views")
        return settings

    def view_files(self, source: str) -> list[str]:
        """Tar and index of all view shards of a source; none for a source without files."""
        if not self.config.views.sources[source].has_files:
            return []
        return names.shard_files(names.views_dir(source), self.config.shards.datasets[self.dataset_of(source)].num_shards)

    def all_view_files(self) -> list[str]:
        """The view shards of all sources."""
        return [file for source in self.config.views.sources for file in self.view_files(source)]
