"""Results that are asked for by name, of something that the configuration does not name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdgmae.config import Config, ConfigError
from cdgmae.settings.reading.messages import did_you_mean


def unknown_name(config: Config, wildcards: Mapping[str, str]) -> ConfigError | None:
    """The error for the first wildcard of a rule that stands for no name of the configuration; None if all do."""
    known: dict[str, Mapping[str, Any]] = {
        "dataset": config.shards.datasets, "source": config.views.sources, "generator": config.views.generators, "run": config.pretrain.runs,
        "evaluation_set": config.propagation.datasets,
    }  # fmt: skip
    for wildcard, name in wildcards.items():
        if name not in known.get(wildcard, {name: None}):
            names = list(known[wildcard])
            said = f"no {wildcard.replace('_', ' ')} is named {name!r}; allowed: {', '.join(names) or '(none configured)'}{did_you_mean(name, names)}"
            return ConfigError(f"what was asked for is not made by this configuration: {said}")
    return None
