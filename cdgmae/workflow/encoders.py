"""Demo data and encoders: what jobs of any stage may need."""

from __future__ import annotations

from collections.abc import Iterable

from cdgmae import names
from cdgmae.config import Config
from cdgmae.settings.encoder import EXPORTED_FILES, EncoderSettings
from cdgmae.workflow.source_state import Notice, source_state


def demo_inputs(config: Config, path: str) -> list[str]:
    """The demo marker if `path` is part of the embedded demo data, else nothing."""
    demo = config.demo
    return [names.demo_marker(demo.directory)] if demo is not None and config.draws(path) else []


def encoder_files(encoder: EncoderSettings) -> list[str]:
    """Files that must exist before the encoder can be loaded: a rule's inputs."""
    if encoder.run is not None:
        return [names.encoder_file(encoder.run, encoder.seed)]
    if encoder.local_folder is not None:
        return [f"{encoder.local_folder}/{name}" for name in EXPORTED_FILES]
    return [encoder.checkpoint] if encoder.checkpoint is not None else []


def given_files(config: Config, paths: Iterable[str], notice: Notice = "mtime") -> str:
    """The user's own among the files and folders that a job reads, `PATH STATE` each: a parameter of its rule.

    Of inputs Snakemake sees neither an older file in the place of a newer one nor what changes inside a folder. Results have records, and
    the demo's files their marker.
    """
    given = [path for path in dict.fromkeys(paths) if not path.startswith(f"{names.RESULTS}/") and not demo_inputs(config, path)]
    return ", ".join(f"{path} {source_state(path, notice)}" for path in given)


def loadable_encoder(config: Config, encoder: EncoderSettings) -> EncoderSettings:
    """The encoder without names of the configuration: a run's file instead of the run, dimensions instead of `random_like`."""
    if encoder.run is not None:
        return EncoderSettings(checkpoint=names.encoder_file(encoder.run, encoder.seed))
    if encoder.random_like is not None:
        return EncoderSettings(random=config.pretrain.runs[encoder.random_like].vit)
    return encoder
