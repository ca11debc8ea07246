"""Which files and settings belong to which job: everything the Snakefile asks of the configuration.

Import-light, like `cdgmae.config`: it runs whenever the workflow is parsed, also inside every cluster job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from cdgmae import names
from cdgmae.config import Config, ConfigError
from cdgmae.settings.base import Settings
from cdgmae.settings.consistency import CropDrawSettings, ScoringSettings
from cdgmae.settings.crops import CropPairSettings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.propagation import ProtocolSettings
from cdgmae.settings.sources import (
    ClipReadingSettings,
    DiffusersSourceSettings,
    EmbeddingSettings,
    FrameSettings,
    GeneratorSourceSettings,
    IndexSettings,
    KnnSourceSettings,
    NeighbourSettings,
    PipelineSettings,
    RandomViewsSettings,
    SourceBase,
    VideoSourceSettings,
)
from cdgmae.settings.tables import SOURCE_TABLES, TABLE_ROWS, TableSettings
from cdgmae.settings.views import GeneratorTrainingSettings, SamplingSettings

AnySource = TypeVar("AnySource", bound=SourceBase)

SETTINGS_OF_VERB: dict[str, type[Settings]] = {
    "embed": EmbeddingSettings,
    "index": IndexSettings,
    "neighbours": NeighbourSettings,
    "random": RandomViewsSettings,
}

SEED_STRIDE = 1_000_003
"""Distance between the seeds of two root seeds: no run seed below it can collide with another root's."""


class Jobs:
    """Files, settings and flags of the workflow's jobs, by wildcard values."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def demo_inputs(self, path: str) -> list[str]:
        """The demo marker if `path` is part of the embedded demo data, else nothing."""
        demo = self.config.demo
        return [names.demo_marker(demo.directory)] if demo is not None and self.config.draws(path) else []

    # Stage shards

    def dataset_inputs(self, dataset: str) -> list[str]:
        """What must exist before a data set can be listed."""
        return self.demo_inputs(self.config.shards.datasets[dataset].path)

    def listing_settings(self, dataset: str) -> str:
        """What decides the manifest, as JSON."""
        return self.config.shards.datasets[dataset].canonical_json(include={"path", "layout", "num_shards"})

    def packing_settings(self, dataset: str) -> str:
        """What decides the bytes of a shard, as JSON: everything but the tolerance for bad pictures."""
        return self.config.shards.datasets[dataset].canonical_json(exclude={"max_bad_fraction"})

    def gate_settings(self, dataset: str) -> str:
        """What decides whether a data set passes, as JSON."""
        return self.config.shards.datasets[dataset].canonical_json(include={"path", "layout", "num_shards", "max_bad_fraction"})

    def shard_names(self, dataset: str) -> list[str]:
        """All shards of a data set."""
        return names.shard_names(self.config.shards.datasets[dataset].num_shards)

    def shard_files(self, dataset: str) -> list[str]:
        """The tars of all shards of a data set."""
        return [self.shard_file(dataset, shard) for shard in self.shard_names(dataset)]

    def shard_file(self, dataset: str, shard: str) -> str:
        """The tar of one shard of a data set."""
        return f"{names.shards_dir(dataset)}/{shard}.tar"

    def shard_gate(self, dataset: str) -> str:
        """The summary that exists only if the data set passed its checks."""
        return f"{names.shards_dir(dataset)}/summary.parquet"

    def all_shard_gates(self) -> list[str]:
        """The summaries of all data sets."""
        return [self.shard_gate(dataset) for dataset in self.config.shards.datasets]

    # Stage views

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

    def real_shard(self, source: str, shard: str) -> str:
        """The shard of real pictures beside a view shard."""
        return self.shard_file(self.dataset_of(source), shard)

    def gate_of(self, source: str, ancient: Callable[[str], str]) -> str:
        """The gate of the data set behind a view source, marked by Snakemake's `ancient` if its shards are those of the manifest.

        Snakemake does not look at the parameters of jobs behind one that must run, and never runs them for an ancient file alone:
        while shards of a new manifest are still to be written, their views would count as up to date.
        """
        gate = self.shard_gate(self.dataset_of(source))
        return ancient(gate) if _is_older(self.manifest_of(source), gate) else gate

    def manifest_of(self, source: str) -> str:
        """The manifest of the data set behind a view source: newer than its views, they are made again."""
        return f"{names.shards_dir(self.dataset_of(source))}/{names.MANIFEST}"

    def packing_of(self, source: str) -> str:
        """What decides the bytes of the pictures behind a view source, as JSON."""
        return self.packing_settings(self.dataset_of(source))

    def source_pattern(self, *kinds: str) -> str:
        """A pattern of the names of all sources of these kinds: it says which rule fills which bags."""
        found = [name for name, source in self.config.views.sources.items() if source.kind in kinds]
        return "|".join(found) or "(?!)"  # which matches nothing

    def sampling(self, source: str) -> SamplingSettings:
        """How a source of kind `s_ldm` or `rcg` is sampled."""
        return self._source(GeneratorSourceSettings, source).sampling

    def sampling_settings(self, source: str) -> str:
        """What the views of a source of kind `s_ldm` or `rcg` depend on, as JSON: everything but the batch size."""
        return self.sampling(source).canonical_json(exclude={"batch_size"})

    def sampling_batch_size(self, source: str) -> int:
        """Rows drawn together: a matter of the machine, so no parameter of the rule."""
        settings = self.config.views.sources[source]
        return (settings if isinstance(settings, DiffusersSourceSettings) else self.sampling(source)).batch_size

    def pipeline_settings(self, source: str) -> str:
        """What the views of a source of kind `diffusers` depend on, as JSON: everything but the batch size."""
        settings = self._source(DiffusersSourceSettings, source)
        return settings.canonical_json(include=set(PipelineSettings.model_fields) - {"batch_size"})

    def embedding_tables(self, source: str) -> list[str]:
        """The embedding tables of all shards behind a source of kind `knn`."""
        return [f"{names.embeddings_dir(source)}/{shard}.parquet" for shard in self.shard_names(self.dataset_of(source))]

    def source_settings(self, source: str, verb: str) -> str:
        """What the command `cdgmae views VERB` needs of a source's settings, as JSON."""
        return self.config.views.sources[source].canonical_json(include=set(SETTINGS_OF_VERB[verb].model_fields))

    def source_encoder(self, source: str) -> EncoderSettings:
        """The embedding encoder of a source of kind `knn`."""
        return self._source(KnnSourceSettings, source).encoder

    def clip_settings(self, source: str) -> str:
        """Settings of a source of kind `video` and how its data set's pictures were prepared, as JSON."""
        settings = self._source(VideoSourceSettings, source)
        dataset = self.config.shards.datasets[settings.dataset]
        frames = {name: getattr(settings, name) for name in FrameSettings.model_fields}
        pictures = {name: getattr(dataset, name) for name in ("path", "resize", "image_size", "jpeg_quality", "max_pixels")}
        return ClipReadingSettings(**frames, **pictures).canonical_json()

    def pipeline_files(self, source: str) -> list[str]:
        """The folder of a source of kind `diffusers`; nothing for a name on the hub."""
        path = self._source(DiffusersSourceSettings, source).path
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
        """The tars of all view shards of a source; none for a source without files."""
        if not self.config.views.sources[source].has_files:
            return []
        return [f"{names.views_dir(source)}/{shard}.tar" for shard in self.shard_names(self.dataset_of(source))]

    def all_view_files(self) -> list[str]:
        """The view shards of all sources."""
        return [file for source in self.config.views.sources for file in self.view_files(source)]

    # Stage consistency

    def scoring_settings(self, source: str) -> str:
        """What one scoring job needs of section `consistency`, as JSON; for a source without view files, how its crops are drawn."""
        section = self.config.consistency
        common = {name: getattr(section, name) for name in ScoringSettings.model_fields if hasattr(section, name)}
        crops = None if self.config.views.sources[source].has_files else self._crop_draws()
        return ScoringSettings(**common, crops=crops).canonical_json()

    def _crop_draws(self) -> CropDrawSettings:
        section = self.config.consistency
        pair = self.config.pretrain.runs[section.crop_run].crop_pair if section.crop_run is not None else CropPairSettings()
        return CropDrawSettings(**pair.model_dump(), num_pairs=section.crop_pairs, seed=self.config.seed)

    def scored_views(self, source: str, shard: str) -> list[str]:
        """The view shard that is compared with its real images; none for a source without files."""
        return [f"{names.views_dir(source)}/{shard}.tar"] if self.config.views.sources[source].has_files else []

    def scored_views_flag(self, source: str) -> str:
        """`--views FOLDER` for a source with view files, else nothing."""
        return f"--views {names.views_dir(source)}" if self.config.views.sources[source].has_files else ""

    def source_kind(self, source: str) -> str:
        """The kind of a view source."""
        return self.config.views.sources[source].kind

    def consistency_tables(self) -> list[str]:
        """The pair tables of all scored sources."""
        return [table for source in self.config.consistency.sources for table in self.score_tables(source)]

    def score_tables(self, source: str) -> list[str]:
        """The pair tables of one scored source."""
        return [f"{names.consistency_dir(source)}/{shard}.parquet" for shard in self.shard_names(self.dataset_of(source))]

    # Stage pretrain

    def dataset_of_run(self, run: str) -> str:
        """The data set behind a pre-training run."""
        return self.dataset_of(self.config.pretrain.runs[run].source)

    def run_settings(self, run: str) -> str:
        """Settings of a run as JSON."""
        return self.config.pretrain.runs[run].canonical_json()

    def run_views(self, run: str) -> list[str]:
        """View shards that a run trains on; a run that crops real images needs none."""
        settings = self.config.pretrain.runs[run]
        return self.view_files(settings.source) if settings.trains_on_views else []

    def run_pictures(self, run: str) -> list[str]:
        """Shards that a run must be newer than: its view shards, each of which depends on its real shard, or else the real ones."""
        return self.run_views(run) or self.shard_files(self.dataset_of_run(run))

    def run_views_flag(self, run: str) -> str:
        """`--views FOLDER` for a run that trains on view shards, else nothing."""
        return f"--views {names.views_dir(self.config.pretrain.runs[run].source)}" if self.run_views(run) else ""

    def run_scores(self, run: str) -> list[str]:
        """Score tables by which a run chooses views; none for a run without `view_filter` and `view_weight`."""
        settings = self.config.pretrain.runs[run]
        return self.score_tables(settings.source) if settings.needs_scores else []

    def run_scores_flag(self, run: str) -> str:
        """`--consistency FOLDER` for a run that chooses views by their scores, else nothing."""
        return f"--consistency {names.consistency_dir(self.config.pretrain.runs[run].source)}" if self.run_scores(run) else ""

    def run_seed(self, seed: str) -> int:
        """The seed handed to a run: root seed and run seed combined."""
        return self.config.seed * SEED_STRIDE + int(seed)

    def all_encoder_files(self) -> list[str]:
        """The encoders of all runs and seeds."""
        section = self.config.pretrain
        return [names.encoder_file(run, seed) for run in section.runs for seed in section.seeds]

    # Stage propagation

    def protocol(self, clip_set: str) -> ProtocolSettings:
        """The protocol of a clip set."""
        return self.config.propagation.protocols[clip_set]

    def propagation_tables(self) -> list[str]:
        """The score tables of all encoders on all clip sets."""
        section = self.config.propagation
        return [names.propagation_table(encoder, clip_set) for encoder in section.encoders for clip_set in section.protocols]

    def propagation_strips(self) -> list[str]:
        """The folders of painted frames of all encoders on all clip sets."""
        section = self.config.propagation
        return [names.propagation_strips(encoder, clip_set) for encoder in section.encoders for clip_set in section.protocols]

    def judged_encoders(self) -> list[str]:
        """The encoders that the default target judges: those of section `propagation`, and their other seeds that a named table needs."""
        tables = [self.table_rows(table) for table in self.named_tables() if table not in SOURCE_TABLES]
        asked = [encoder for rows in tables for encoders in rows.values() for encoder in encoders]
        return list(dict.fromkeys([*self.config.propagation.encoders, *asked]))

    def judged_encoder(self, name: str) -> EncoderSettings:
        """An encoder of section `propagation`, or another seed of it (`NAME_seedN`), which only the paper's tables ask for.

        Raises:
            ConfigError: if there is no such encoder.
        """
        encoders = self.config.propagation.encoders
        found = {derived: seed for base in encoders for derived, seed in self.config.seeds_of_encoder(base).items()} | encoders
        if name not in found:
            raise ConfigError(f"there is no encoder {name!r} to judge; allowed: {', '.join(found)}")
        return found[name]

    # Stage report

    def report_settings(self) -> str:
        """What the page depends on, as JSON; the paper's tables are jobs of their own."""
        return self.config.report.canonical_json(exclude={"tables"})

    def named_tables(self) -> list[str]:
        """The paper's tables of which the configuration fills a row; with any of them also Table 8, which needs none."""
        tables = self.config.report.tables
        return [table for table, rows in TABLE_ROWS.items() if tables and (tables.get(table) or not rows)]

    def table_rows(self, table: str) -> dict[str, list[str]]:
        """Row of a paper table -> what fills it: a source, or an encoder with all its seeds; only the configured rows."""
        rows = self.config.report.tables.get(table, {})
        if table in SOURCE_TABLES:
            return {row: [source] for row, source in rows.items()}
        return {row: list(self.config.seeds_of_encoder(encoder)) for row, encoder in rows.items()}

    def table_settings(self, table: str) -> str:
        """What fills a paper table, as JSON."""
        return TableSettings(rows=self.table_rows(table)).canonical_json()

    def table_inputs(self, table: str) -> list[str]:
        """The score tables behind a paper table; no file twice."""
        fillers = dict.fromkeys(name for fillers_of_row in self.table_rows(table).values() for name in fillers_of_row)
        if table in SOURCE_TABLES:
            return [file for source in fillers for file in self.score_tables(source)]
        protocols = self.config.propagation.protocols
        return [names.propagation_table(encoder, clip_set) for encoder in fillers for clip_set in protocols]

    # Encoders, wherever one is named

    def encoder_files(self, encoder: EncoderSettings) -> list[str]:
        """Files that must exist before the encoder can be loaded: a rule's inputs."""
        if encoder.run is not None:
            return [names.encoder_file(encoder.run, encoder.seed)]
        return [encoder.checkpoint] if encoder.checkpoint is not None else []

    def encoder_reference(self, encoder: EncoderSettings) -> str:
        """The command-line form of an encoder: a file, a timm name, `NAME@FILE`, `random:{...}` or `pixels:P`."""
        files = self.encoder_files(encoder)
        if files:
            return f"{encoder.timm}@{files[0]}" if encoder.timm is not None else files[0]
        if encoder.random_like is not None:
            return f"random:{self.config.pretrain.runs[encoder.random_like].vit.canonical_json()}"
        return encoder.timm if encoder.timm is not None else f"pixels:{encoder.pixels}"


@cache
def _is_older(path: str, other: str) -> bool:
    """Whether both files exist and the first was written before the second; asked once, when the workflow is planned."""
    try:
        return os.stat(path).st_mtime_ns <= os.stat(other).st_mtime_ns
    except OSError:
        return False


def export_environment(config: Config) -> None:
    """Put the machine settings into this process's environment, from which all its jobs inherit them.

    The folder of the running Python comes first in PATH, so that jobs find the `cdgmae` beside the `snakemake` that runs them,
    whether or not the environment is activated.
    """
    os.environ |= config.runtime.environment()
    folder = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])
