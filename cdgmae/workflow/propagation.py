"""Files and settings of stage propagation."""

from __future__ import annotations

from cdgmae import names
from cdgmae.config import Config, ConfigError
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.protocol import ProtocolSettings
from cdgmae.settings.reading.messages import did_you_mean
from cdgmae.workflow import encoders, source_state


def protocol(config: Config, evaluation_set: str) -> ProtocolSettings:
    """The protocol of an evaluation set, with the folder that its jobs read."""
    settings = config.propagation.datasets[evaluation_set]
    return settings.model_copy(update={"root": names.prepared_set(evaluation_set)}) if settings.reads_prepared_copy else settings


def source_root(config: Config, evaluation_set: str) -> str:
    """The user's folder of an evaluation set."""
    return config.propagation.datasets[evaluation_set].root


def source_digest(config: Config, evaluation_set: str) -> str:
    """What tells the files of the user's folder from those that lay there before; the demo's are made by the workflow itself."""
    root = source_root(config, evaluation_set)
    return "" if encoders.demo_inputs(config, root) else source_state.source_state(root, "mtime")


def clips_digest(config: Config, evaluation_set: str) -> str:
    """The same for who reads that folder; of a prepared copy, which is an input, nothing."""
    return "" if config.propagation.datasets[evaluation_set].reads_prepared_copy else source_digest(config, evaluation_set)


def kind(config: Config, evaluation_set: str) -> str:
    """The kind of an evaluation set."""
    return config.propagation.datasets[evaluation_set].kind


def seed_option(config: Config, encoder: str) -> str:
    """The seed of the run behind a judged encoder, as command-line option; nothing for encoders that no run trained."""
    settings = judged_encoder(config, encoder)
    return "" if settings.run is None else f"--seed {settings.seed}"


def propagation_tables(config: Config) -> list[str]:
    """The score tables of all encoders on all evaluation sets."""
    section = config.propagation
    return [names.propagation_table(encoder, name) for encoder in section.encoders for name in section.datasets]


def propagation_strips(config: Config) -> list[str]:
    """The folders of painted frames of all encoders on all evaluation sets."""
    section = config.propagation
    return [names.propagation_strips(encoder, name) for encoder in section.encoders for name in section.datasets]


def judged_encoder(config: Config, encoder: str) -> EncoderSettings:
    """An encoder of section `propagation`, or another seed of it (`NAME_seedN`), which only the paper's tables ask for.

    Raises:
        ConfigError: if there is no such encoder.
    """
    named = config.propagation.encoders
    seeds = {derived: seed for base in named for derived, seed in config.seeds_of_encoder(base).items()} | named
    if encoder not in seeds:
        raise ConfigError(f"there is no encoder {encoder!r} to judge; allowed: {', '.join(seeds)}{did_you_mean(encoder, seeds)}")
    return seeds[encoder]


def judged_files(config: Config, encoder: str) -> list[str]:
    """Files of an encoder to judge."""
    return encoders.encoder_files(judged_encoder(config, encoder))


def given_files(config: Config, encoder: str) -> str:
    """What the user gave of these, with its state."""
    return encoders.given_files(config, judged_files(config, encoder))


def all_judged_files(config: Config) -> list[str]:
    """Files of all encoders that are judged; no file twice."""
    judged = config.propagation.encoders if config.propagation.datasets else []
    return list(dict.fromkeys(file for name in judged for file in judged_files(config, name)))


def loadable_encoder(config: Config, encoder: str) -> EncoderSettings:
    """An encoder to judge, as the command line takes it."""
    return encoders.loadable_encoder(config, judged_encoder(config, encoder))


def set_inputs(config: Config, evaluation_set: str) -> list[str]:
    """What must exist before an evaluation set can be read."""
    if config.propagation.datasets[evaluation_set].reads_prepared_copy:
        return [names.prepared_listing(evaluation_set)]
    return source_inputs(config, evaluation_set)


def source_inputs(config: Config, evaluation_set: str) -> list[str]:
    """What must exist before the user's folder of an evaluation set can be read."""
    return encoders.demo_inputs(config, source_root(config, evaluation_set))


def summaries(config: Config) -> list[str]:
    """The summary as CSV and as Parquet, which is written last; none if nothing is measured."""
    return [f"{names.RESULTS}/propagation/summary.{kind}" for kind in ("csv", "parquet") if config.propagation.datasets]


def results(config: Config) -> list[str]:
    """All files of the stage."""
    return [*propagation_strips(config), *propagation_tables(config), *summaries(config)]
