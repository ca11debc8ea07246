"""Files and settings of stage propagation."""

from __future__ import annotations

from cdgmae import names
from cdgmae.config import ConfigError
from cdgmae.jobs.pretrain import PretrainJobs
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.protocol import ProtocolSettings


class PropagationJobs(PretrainJobs):
    """Jobs that judge encoders."""

    def protocol(self, evaluation_set: str) -> ProtocolSettings:
        """The protocol of an evaluation set."""
        return self.config.propagation.datasets[evaluation_set]

    def kind(self, evaluation_set: str) -> str:
        """The kind of an evaluation set."""
        return self.config.propagation.datasets[evaluation_set].kind

    def propagation_tables(self) -> list[str]:
        """The score tables of all encoders on all evaluation sets."""
        section = self.config.propagation
        return [names.propagation_table(encoder, name) for encoder in section.encoders for name in section.datasets]

    def propagation_strips(self) -> list[str]:
        """The folders of painted frames of all encoders on all evaluation sets."""
        section = self.config.propagation
        return [names.propagation_strips(encoder, name) for encoder in section.encoders for name in section.datasets]

    def seed_option(self, encoder: str) -> str:
        """The seed of the run behind a judged encoder, as command-line option; nothing for encoders that no run trained."""
        settings = self.judged_encoder(encoder)
        return "" if settings.run is None else f"--seed {settings.seed}"

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
