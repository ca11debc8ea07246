"""The published networks that a configuration names: whatever its jobs would take from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cdgmae.config import Config
from cdgmae.generators.generator_folder import METADATA_FILE, read_metadata
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.settings.encoder import HUB_PREFIXES, EncoderSettings
from cdgmae.views.sources.diffusers import PipelineViews


@dataclass(frozen=True, slots=True)
class NamedNetwork:
    """One network of the hub.

    Attributes:
        settings: An encoder, or a pipeline that draws views.
        keys: Where the configuration names it.
    """

    settings: EncoderSettings | PipelineViews
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name on the hub."""
        return self.settings.name if isinstance(self.settings, PipelineViews) else self.settings.text

    def load(self) -> None:
        """Take it from the cache, else from the hub: an encoder is loaded, of a pipeline all files are there afterwards.

        Raises:
            ValueError: if that cannot be.
        """
        if isinstance(self.settings, EncoderSettings):
            load_encoder(self.settings, device=torch.device("cpu"))
            return
        from cdgmae.views.sampling.pipeline_sampler import download

        download(self.settings)


def named_networks(config: Config) -> list[NamedNetwork]:
    """The networks of the hub that a configuration names, each once.

    Raises:
        ValueError: if a generator folder cannot be read.
    """
    networks: dict[str, NamedNetwork] = {}
    for key, settings in _named(config):
        network = NamedNetwork(settings, (key,))
        former = networks.get(network.name, NamedNetwork(settings, ()))
        networks[network.name] = NamedNetwork(settings, (*former.keys, key))
    return list(networks.values())


def _named(config: Config) -> Iterator[tuple[str, EncoderSettings | PipelineViews]]:
    for key, encoder in config.encoders():
        if _is_of_hub(encoder):
            yield key, encoder
    for name, generator in config.views.generators.items():
        if generator.path is not None and (Path(generator.path) / METADATA_FILE).is_file():
            of_generator = read_metadata(Path(generator.path)).encoder
            if of_generator is not None and _is_of_hub(of_generator):
                yield f"views.generators.{name}.path", of_generator
    for name, source in config.views.sources.items():
        if isinstance(source, PipelineViews) and source.hub is not None:
            yield f"views.sources.{name}.hub", source


def _is_of_hub(encoder: EncoderSettings) -> bool:
    """Whether loading it asks the hub; of an architecture whose weights are a file, only the hub's own models do."""
    if encoder.timm is None or encoder.local_folder is not None:
        return False
    return encoder.checkpoint is None or encoder.timm.startswith(HUB_PREFIXES)
