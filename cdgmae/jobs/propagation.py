"""Files and settings of stage propagation."""

from __future__ import annotations

from cdgmae import names
from cdgmae.config import ConfigError
from cdgmae.jobs.pretrain import PretrainJobs
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.propagation import ProtocolSettings


class PropagationJobs(PretrainJobs):
    """Jobs that judge encoders."""

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
