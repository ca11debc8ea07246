"""Files and settings of stage consistency."""

from __future__ import annotations

from cdgmae import names
from cdgmae.config import Config
from cdgmae.settings.consistency import CropDrawSettings, ScoringSettings, SummarySettings
from cdgmae.settings.crops import CropPairSettings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.workflow import encoders, shards, views


def scoring_settings(config: Config, source: str) -> str:
    """What scores depend on in section `consistency`, as JSON; for a source without view files, how its crops are drawn."""
    section = config.consistency
    common = {name: getattr(section, name) for name in ScoringSettings.model_fields if hasattr(section, name)}
    crops = None if config.views.sources[source].has_files else _crop_draws(config)
    return ScoringSettings(**common, crops=crops).canonical_json(exclude={"batch_size", "max_bad_fraction"})


def _crop_draws(config: Config) -> CropDrawSettings:
    section = config.consistency
    pair = config.pretrain.runs[section.crop_run].crop_pair if section.crop_run is not None else CropPairSettings()
    return CropDrawSettings(**pair.model_dump(), num_pairs=section.crop_pairs, seed=config.seed)


def num_shards(config: Config, source: str) -> int:
    """Shards of the data set behind a view source."""
    return config.shards.datasets[views.dataset_of(config, source)].num_shards


def summary_settings(config: Config) -> SummarySettings:
    """Which tables are summarised."""
    return SummarySettings(num_shards={name: num_shards(config, name) for name in config.consistency.sources})


def scored_views(config: Config, source: str, shard: str) -> list[str]:
    """The view shard that is compared with its real images, tar and index; none for a source without files."""
    folder = names.views_dir(source)
    return [f"{folder}/{shard}.tar", f"{folder}/{shard}.parquet"] if config.views.sources[source].has_files else []


def scored_views_flag(config: Config, source: str, shard: str) -> str:
    """`--views TAR` for a source with view files, else nothing."""
    return f"--views {names.views_dir(source)}/{shard}.tar" if config.views.sources[source].has_files else ""


def source_kind(config: Config, source: str) -> str:
    """The kind of a view source."""
    return config.views.sources[source].kind


def scoring_encoder(config: Config) -> EncoderSettings:
    """The scoring encoder."""
    return encoders.loadable_encoder(config, config.consistency.encoder)


def scoring_encoder_files(config: Config) -> list[str]:
    """Its files."""
    return encoders.encoder_files(config.consistency.encoder)


def given_files(config: Config) -> str:
    """What the user gave of these, with its state."""
    return encoders.given_files(config, scoring_encoder_files(config))


def all_score_tables(config: Config) -> list[str]:
    """The pair tables of all scored sources."""
    return [table for source in config.consistency.sources for table in score_tables(config, source)]


def score_tables(config: Config, source: str) -> list[str]:
    """The pair tables of one scored source."""
    return [
        f"{names.consistency_dir(source)}/{shard}.parquet"
        for shard in shards.shard_names(config, views.dataset_of(config, source))
    ]


def summaries(config: Config) -> list[str]:
    """The summary as CSV and as Parquet, which is written last; none if nothing is scored."""
    return [f"{names.RESULTS}/consistency/summary.{kind}" for kind in ("csv", "parquet") if config.consistency.sources]


def results(config: Config) -> list[str]:
    """All files of the stage."""
    return [*all_score_tables(config), *summaries(config)]
