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
from cdgmae.paper import PAPER_TABLES
from cdgmae.settings.base import Seed, Settings
from cdgmae.settings.consistency import ConsistencySettings
from cdgmae.settings.demo import DemoSettings
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.pretrain import PretrainSettings, with_run_defaults
from cdgmae.settings.propagation import PropagationSettings, with_kinds
from cdgmae.settings.reading.all_problems import NO_SUCH_NAME, TakenOut, all_problems
from cdgmae.settings.reading.messages import LISTED, did_you_mean
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
        taken = info.context or TakenOut()
        problems = [
            *self._stage_problems(taken),
            *self._reference_problems(taken),
            *self._source_problems(),
            *self._bag_problems(),
            *self._patch_problems(),
            *self._cycle_problems(),
            *self._score_cycle_problems(),
            *self._seed_name_problems(),
        ]
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

    def _stage_problems(self, taken: TakenOut) -> Iterator[str]:
        """A configuration without work, or evaluation sets without anything to judge."""
        if self.propagation.datasets and not self.propagation.encoders and not taken.names("propagation.encoders"):
            yield "propagation.encoders is empty, so nothing can be measured: name one, or leave section propagation out"
        elif self.stages == ["report"] and not taken.keys:
            yield (
                "nothing to do: name at least shards.datasets, or propagation.datasets and propagation.encoders (`cdgmae config new` "
                "writes a configuration for your folders)"
            )

    def _references(self) -> Iterator[tuple[str, str, str]]:
        """(config key, name used there, dotted key of the entries of which it must be one) for every reference by name."""
        for name, generator in self.views.generators.items():
            if generator.train is not None:
                yield f"views.generators.{name}.train.dataset", generator.train.dataset, "shards.datasets"
        for name, source in self.views.sources.items():
            yield f"views.sources.{name}.dataset", source.dataset, "shards.datasets"
            if source.generator_name is not None:
                yield f"views.sources.{name}.generator", source.generator_name, "views.generators"
        for source_name in self.consistency.sources:
            yield "consistency.sources", source_name, "views.sources"
        if self.consistency.crop_run is not None:
            yield "consistency.crop_run", self.consistency.crop_run, "pretrain.runs"
        for name, run in self.pretrain.runs.items():
            yield f"pretrain.runs.{name}.source", run.source, "views.sources"
        for key, encoder in self.encoders():
            for field in ("run", "random_like"):
                if getattr(encoder, field) is not None:
                    yield f"{key}.{field}", getattr(encoder, field), "pretrain.runs"
        for table, rows in self.report.tables.items():
            place = "views.sources" if PAPER_TABLES[table].is_of_sources else "propagation.encoders"
            yield from ((f"report.tables.{table}.{row}", filler, place) for row, filler in rows.items())

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

    def _seed_name_problems(self) -> Iterator[str]:
        """Encoders named like another seed of an encoder that stands in a paper table."""
        configured = self.propagation.encoders
        used = {
            name for table, rows in self.report.tables.items() if not PAPER_TABLES[table].is_of_sources for name in rows.values()
        }
        for name in sorted(used & set(configured)):
            for derived, encoder in self.seeds_of_encoder(name).items():
                if derived in configured and configured[derived] != encoder:
                    yield (
                        f"propagation.encoders.{derived}: this name stands for seed {encoder.seed} of encoder {name!r}, which "
                        "report.tables needs; rename it"
                    )

    def _reference_problems(self, taken: TakenOut) -> Iterator[str]:
        for key, name, place in self._references():
            section, entries = place.split(".")
            allowed = [*getattr(getattr(self, section), entries), *taken.names(place)]
            if name not in allowed and not taken.hides(place):
                yield f"{key} = {name!r}: {NO_SUCH_NAME}; allowed: {', '.join(allowed) or '(none configured)'}{did_you_mean(name, allowed)}"
        for key, encoder in self.encoders():
            if encoder.run is not None and encoder.seed not in self.pretrain.seeds:
                yield f"{key}.seed = {encoder.seed}: not trained; allowed: pretrain.seeds = {self.pretrain.seeds}"

    def _source_problems(self) -> Iterator[str]:
        """Sources whose data set cannot fill their bags, and the demo's images in more shards than there are."""
        for name, drawn in self.shards.datasets.items():
            if self.demo is not None and self.draws(drawn.path) and drawn.num_shards > self.demo.num_tiles:
                yield f"shards.datasets.{name}.num_shards = {drawn.num_shards}, but the demo has only {self.demo.num_tiles} images (demo.num_tiles)"
        for name, source in self.views.sources.items():
            dataset = self.shards.datasets.get(source.dataset)
            if dataset is None:
                continue
            num_images = self.demo.num_tiles if self.demo is not None and self.draws(dataset.path) else None
            yield from (f"views.sources.{name}{problem}" for problem in source.problems(dataset, num_images))

    def _bag_problems(self) -> Iterator[str]:
        for name, run in self.pretrain.runs.items():
            source = self.views.sources.get(run.source)
            if source is None:
                continue
            key = f"pretrain.runs.{name}"
            if run.pretext == "video_pairs" and not source.has_equal_steps:
                yield (
                    f"{key}.pretext = 'video_pairs' draws its own pairs from frames at equal distances, which source {run.source!r} does "
                    "not have; take a source of kind video with frame_step: 1"
                )
            if run.needs_scores and run.source not in self.consistency.sources:
                keys = " and ".join(name for name in ("view_filter", "view_weight") if getattr(run, name) is not None)
                yield f"{key}.{keys} needs the scores of source {run.source!r}; add it to consistency.sources"
            if run.pretext == "cross_view" and run.num_anchors > source.num_views:
                yield (
                    f"{key}.num_anchors = {run.num_anchors}, but each bag of source {run.source!r} holds {source.num_views} other "
                    f"view(s). Lower num_anchors or raise {_num_views_key(run.source, source)}."
                )
            if source.num_views == 0 and (
                run.target_view == "generated" or (run.trains_on_views and run.pretext in ("crops", "mae"))
            ):
                yield f"{key}.target_view = {run.target_view!r}, but source {run.source!r} has no generated views; use 'real'"
        crop_run = self.pretrain.runs.get(self.consistency.crop_run or "")
        if crop_run is not None and crop_run.pretext != "crops":
            yield (
                f"consistency.crop_run = {self.consistency.crop_run!r} has pretext {crop_run.pretext} and draws no crop pairs; name a "
                "run with pretext crops, or leave it out for CropMAE's crops"
            )

    def _patch_problems(self) -> Iterator[str]:
        """Sides in pixels that the patches of an encoder, where its settings say how large they are, do not divide."""
        sides: list[tuple[str, int | Sequence[int], str, EncoderSettings]] = [
            (f"propagation.datasets.{name}.input_size", protocol.input_size, f"propagation.encoders.{judged}", encoder)
            for name, protocol in self.propagation.datasets.items()
            for judged, encoder in self.propagation.encoders.items()
        ]
        if self.consistency.sources:
            sides.append(("consistency.image_size", self.consistency.image_size, "consistency.encoder", self.consistency.encoder))
        for name, generator in self.views.generators.items():
            if (train := generator.train) is not None:
                key = f"views.generators.{name}.train"
                sides.append((f"{key}.encoder_image_size", train.encoder_image_size, f"{key}.encoder", train.encoder))
        for name, source in self.views.sources.items():
            if source.encoder_settings is not None:
                size = getattr(source, "image_size", 0)
                sides.append((f"views.sources.{name}.image_size", size, f"views.sources.{name}.encoder", source.encoder_settings))
        refused: dict[tuple[str, int], list[str]] = {}
        for key, size, named, encoder in sides:
            patch = self._patch_size(encoder)
            if patch is not None and any(side % patch for side in ([size] if isinstance(size, int) else size)):
                refused.setdefault((f"{key} = {size}", patch), []).append(named)
        given = {f"{key} = {size}": [size] if isinstance(size, int) else list(size) for key, size, *_ in sides}
        for (written, patch), encoders in refused.items():
            below, above = ([max(1, way * (way * side // patch)) * patch for side in given[written]] for way in (1, -1))
            fits = " or ".join(dict.fromkeys(str(fit if len(fit) > 1 else fit[0]) for fit in (below, above)))
            yield f"{written}: no multiple of {patch}, the patch size of {', '.join(encoders)}; write {fits}, or leave that encoder out"

    def _patch_size(self, encoder: EncoderSettings) -> int | None:
        run = self.pretrain.runs.get(encoder.run or encoder.random_like or "")
        return run.patch_size if run is not None else encoder.named_patch_size

    def _cycle_problems(self) -> Iterator[str]:
        """What a view source is made of must not need a run that trains on that source: it could never start."""
        for name in self.views.sources:
            trail = self._way_back(name, [])
            if trail:
                yield f"views.sources.{name}: circular, {' <- '.join(trail)}; take an encoder of a run of a crops source there"

    def _way_back(self, source_name: str, trail: list[str]) -> list[str]:
        """The names from a source back to itself through generators, encoders and runs; empty if there is no such way."""
        if source_name in trail:
            return [*trail, source_name] if trail[0] == source_name else []
        needed = [self.pretrain.runs[name].source for name in self._runs_behind(source_name)]
        return next((way for source in needed if (way := self._way_back(source, [*trail, source_name]))), [])

    def _runs_behind(self, source_name: str) -> list[str]:
        """The runs whose encoders a source needs, itself or through its generator."""
        source = self.views.sources.get(source_name)
        if source is None:
            return []
        generator = self.views.generators.get(source.generator_name or "")
        training = generator.train if generator is not None else None
        encoders = [source.encoder_settings, training.encoder if training is not None else None]
        return [encoder.run for encoder in encoders if encoder is not None and encoder.run in self.pretrain.runs]

    def _score_cycle_problems(self) -> Iterator[str]:
        """A run that waits for scores, and whose encoder (or what its views come from) the scores wait for, could never start."""
        waiting, seen = [self.consistency.encoder.run], set[str]()
        while waiting:
            name = waiting.pop()
            if name not in self.pretrain.runs or name in seen:
                continue
            seen.add(name)
            run = self.pretrain.runs[name]
            if run.needs_scores:
                yield (
                    f"pretrain.runs.{name} has view_filter or view_weight and so needs scores, but consistency.encoder needs this run "
                    "first; score with an encoder that is trained without scores"
                )
            waiting += self._runs_behind(run.source)


def _num_views_key(name: str, source: Any) -> str:
    """The key that says how many views a source's bags hold."""
    return f"views.sources.{name}.{'sampling.num_views' if source.generator_name is not None else 'num_views'}"


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
    found = re.match(r"pretrain\.runs\.([^.]+)\.(\w+)", problem)
    if (
        found is None
        or found[2] not in (values["pretrain"].get("defaults") or {})
        or found[2] in (values["pretrain"]["runs"][found[1]] or {})
    ):
        return problem
    return f"pretrain.defaults.{found[2]}{problem[found.end() :]}"


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
