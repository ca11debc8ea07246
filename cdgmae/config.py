"""The checked configuration: all sections together, what they demand of each other, and the JSON schema.

Import-light (pydantic and yaml only): the Snakefile calls `check_config` before any job exists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from cdgmae import names
from cdgmae.settings.base import Seed, Settings
from cdgmae.settings.consistency import ConsistencySettings
from cdgmae.settings.demo import DemoSettings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.pretrain import PretrainSettings, with_run_defaults
from cdgmae.settings.propagation import PropagationSettings, with_kinds
from cdgmae.settings.reading.agreement import disagreements
from cdgmae.settings.reading.all_problems import TakenOut, all_problems
from cdgmae.settings.reading.messages import LISTED
from cdgmae.settings.reading.plain_values import NotPlain, check_plain, read_yaml
from cdgmae.settings.report import ReportSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.settings.shards import ShardsSettings
from cdgmae.views.sources.view_kinds import ViewsSettings


class ConfigError(ValueError):
    """The configuration cannot be run; the message names every offending key, its value and what is allowed.

    Attributes:
        problems: One sentence each.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, origin: str, problems: Sequence[str]) -> Self:
        """The error of all problems of a file."""
        return cls(f"{origin} cannot be run:{''.join(f'{LISTED}{problem}' for problem in problems)}", problems)


class Config(Settings):
    """The whole configuration: one section per stage, plus `seed`, `runtime` and the optional `demo`.

    Sections may be left out: what they do not name is not run.
    """

    seed: Seed = Field(default=0, description="Root of every random draw in the workflow.")
    demo: DemoSettings | None = Field(default=None, description="Draw the embedded demo data (leave out for your own data).")
    shards: ShardsSettings = Field(default=ShardsSettings(), description="Images and how they are packed.")
    views: ViewsSettings = Field(default=ViewsSettings(), description="Generators and view sources.")
    consistency: ConsistencySettings = Field(default=ConsistencySettings(), description="Scoring of view pairs: GS, LS, NPS.")
    pretrain: PretrainSettings = Field(default=PretrainSettings(), description="Cross-view masked autoencoder runs.")
    propagation: PropagationSettings = Field(
        default=PropagationSettings(), description="Video label propagation with frozen encoders."
    )
    report: ReportSettings = Field(default=ReportSettings(), description="The report.")
    runtime: RuntimeSettings = Field(default=RuntimeSettings(), description="How jobs run on this machine.")

    @model_validator(mode="after")
    def _sections_agree(self, info: ValidationInfo) -> Self:
        problems = list(disagreements(self, info.context or TakenOut()))
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def stages(self) -> list[str]:
        """The stages that have anything to do, in order; the report is always one of them."""
        work = {
            "shards": self.shards.datasets, "views": self.views.sources, "consistency": self.consistency.sources,
            "pretrain": self.pretrain.runs, "propagation": self.propagation.datasets, "report": True,
        }  # fmt: skip
        return [stage for stage in names.STAGES if work[stage]]

    def draws(self, path: str) -> bool:
        """Whether `path` is part of the embedded demo data, which the workflow draws itself."""
        return self.demo is not None and names.lies_within(path, self.demo.directory)

    def encoders(self) -> Iterator[tuple[str, EncoderSettings]]:
        """(config key, settings) of every encoder named anywhere."""
        for name, generator in self.views.generators.items():
            if generator.train is not None:
                yield f"views.generators.{name}.train.encoder", generator.train.encoder
        for name, source in self.views.sources.items():
            if source.encoder_settings is not None:
                yield f"views.sources.{name}.encoder", source.encoder_settings
        if self.consistency.sources:
            yield "consistency.encoder", self.consistency.encoder
        for name, encoder in self.propagation.encoders.items():
            yield f"propagation.encoders.{name}", encoder

    def seeds_of_encoder(self, name: str) -> dict[str, EncoderSettings]:
        """An encoder of section `propagation` and, if a run trains it, the same run's other seeds, named `NAME_seedN`."""
        encoder = self.propagation.encoders[name]
        others = [seed for seed in self.pretrain.seeds if seed != encoder.seed] if encoder.run is not None else []
        return {name: encoder} | {f"{name}_seed{seed}": encoder.model_copy(update={"seed": seed}) for seed in others}


def check_config(values: Mapping[str, Any], origin: str = "config.yaml") -> Config:
    """Check plain values (from YAML) and return the typed configuration.

    Args:
        values: The configuration as nested plain values.
        origin: The file name to blame in messages.

    Raises:
        ConfigError: One message that lists every problem with its key, value, what is allowed and what to do.
    """
    problems: list[str] = []
    try:
        check_plain(values, origin)  # before anything walks them
    except NotPlain as error:
        problems, values = error.problems, error.values
    except ValueError as error:
        raise ConfigError.of(origin, [str(error)]) from None
    given = {name: section for name, section in values.items() if section is not None}  # an overlay drops a section so
    prepared = {"pretrain": with_run_defaults, "propagation": with_kinds}
    filled = given | {name: fill(given[name]) for name, fill in prepared.items() if name in given}
    try:
        config = Config.from_plain(filled)
    except ValidationError as error:
        problems += sorted({_where_it_is_written(problem, given) for problem in all_problems(filled, error, Config)})
    if problems:
        raise ConfigError.of(origin, problems)
    return config


def _where_it_is_written(problem: str, values: Mapping[str, Any]) -> str:
    """A problem of a run's key that it has from `pretrain.defaults`, with that key."""
    match = re.match(r"pretrain\.runs\.([^.]+)\.(\w+)", problem)
    if (
        match is None
        or match[2] not in (values["pretrain"].get("defaults") or {})
        or match[2] in (values["pretrain"]["runs"][match[1]] or {})
    ):
        return problem
    return f"pretrain.defaults.{match[2]}{problem[match.end() :]}"


def load_config(path: Path, *overlays: Path) -> Config:
    """Read and check one YAML file, or several laid over each other as Snakemake's `--configfile` does.

    Raises:
        ConfigError: if a file is missing or is not a YAML mapping, or together they do not pass `check_config`.
    """
    return check_config(read_files(path, *overlays), origin=", ".join(map(str, (path, *overlays))))


def read_files(*files: Path, problems: list[str] | None = None) -> dict[str, Any]:
    """The plain values of YAML files, laid over each other in order.

    Args:
        files: The files.
        problems: Takes what can be told beside other problems (see `NotPlain`), which is refused otherwise.

    Raises:
        ConfigError: if a file is missing or is not a YAML mapping.
    """
    values: dict[str, Any] = {}
    for file in files:
        _lay_over(values, _read_mapping(file, problems))
    return values


def _lay_over(values: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    """Write the overlay's values into `values`; mappings merge, everything else is replaced."""
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _lay_over(values[key], value)
        else:
            values[key] = value


def _read_mapping(path: Path, problems: list[str] | None) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); give an existing file; `cdgmae config new` writes one"
        ) from None
    except ValueError as error:
        if problems is None or not isinstance(error, NotPlain):
            raise ConfigError(str(error)) from None
        problems += (f"{path}: {problem}" for problem in error.problems)
        values = error.values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no sections with keys; `cdgmae config new` writes a file that does")
    return values


def json_schema() -> str:
    """The JSON schema of the configuration, as it is stored in workflow/schemas/config.schema.json."""
    schema = Config.model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
