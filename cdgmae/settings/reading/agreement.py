"""What the sections of a configuration demand of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cdgmae.paper import PAPER_TABLES
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.reading.all_problems import NO_SUCH_NAME, TakenOut
from cdgmae.settings.reading.messages import did_you_mean

if TYPE_CHECKING:
    from cdgmae.config import Config


def disagreements(config: Config, taken: TakenOut) -> Iterator[str]:
    """One sentence per thing in which checked sections do not agree.

    Args:
        config: The sections.
        taken: What is not in them because it is at fault itself.
    """
    yield from _stage_problems(config, taken)
    yield from _reference_problems(config, taken)
    for check in (_source_problems, _bag_problems, _patch_problems, _cycle_problems, _score_cycle_problems, _seed_name_problems):
        yield from check(config)


def _stage_problems(config: Config, taken: TakenOut) -> Iterator[str]:
    """A configuration without work, or evaluation sets without anything to judge."""
    if config.propagation.datasets and not config.propagation.encoders and not taken.names("propagation.encoders"):
        yield "propagation.encoders is empty, so nothing can be measured: name one, or leave section propagation out"
    elif config.stages == ["report"] and not taken.keys:
        yield (
            "nothing to do: name at least shards.datasets, or propagation.datasets and propagation.encoders (`cdgmae config new` "
            "writes a configuration for your folders)"
        )


def _references(config: Config) -> Iterator[tuple[str, str, str]]:
    """(config key, name used there, dotted key of the entries of which it must be one) for every reference by name."""
    for name, generator in config.views.generators.items():
        if generator.train is not None:
            yield f"views.generators.{name}.train.dataset", generator.train.dataset, "shards.datasets"
    for name, source in config.views.sources.items():
        yield f"views.sources.{name}.dataset", source.dataset, "shards.datasets"
        if source.generator_name is not None:
            yield f"views.sources.{name}.generator", source.generator_name, "views.generators"
    for source_name in config.consistency.sources:
        yield "consistency.sources", source_name, "views.sources"
    if config.consistency.crop_run is not None:
        yield "consistency.crop_run", config.consistency.crop_run, "pretrain.runs"
    for name, run in config.pretrain.runs.items():
        yield f"pretrain.runs.{name}.source", run.source, "views.sources"
    for key, encoder in config.encoders():
        for field in ("run", "random_like"):
            if getattr(encoder, field) is not None:
                yield f"{key}.{field}", getattr(encoder, field), "pretrain.runs"
    for table, rows in config.report.tables.items():
        place = "views.sources" if PAPER_TABLES[table].is_of_sources else "propagation.encoders"
        yield from ((f"report.tables.{table}.{row}", filler, place) for row, filler in rows.items())


def _seed_name_problems(config: Config) -> Iterator[str]:
    """Encoders named like another seed of an encoder that stands in a paper table."""
    configured = config.propagation.encoders
    used = {
        name for table, rows in config.report.tables.items() if not PAPER_TABLES[table].is_of_sources for name in rows.values()
    }
    for name in sorted(used & set(configured)):
        for derived, encoder in config.seeds_of_encoder(name).items():
            if derived in configured and configured[derived] != encoder:
                yield (
                    f"propagation.encoders.{derived}: this name stands for seed {encoder.seed} of encoder {name!r}, which "
                    "report.tables needs; rename it"
                )


def _reference_problems(config: Config, taken: TakenOut) -> Iterator[str]:
    for key, name, place in _references(config):
        section, entries = place.split(".")
        allowed = [*getattr(getattr(config, section), entries), *taken.names(place)]
        if name not in allowed and not taken.hides(place):
            yield f"{key} = {name!r}: {NO_SUCH_NAME}; allowed: {', '.join(allowed) or '(none configured)'}{did_you_mean(name, allowed)}"
    for key, encoder in config.encoders():
        if encoder.run is not None and encoder.seed not in config.pretrain.seeds:
            yield f"{key}.seed = {encoder.seed}: not trained; allowed: pretrain.seeds = {config.pretrain.seeds}"


def _source_problems(config: Config) -> Iterator[str]:
    """Sources whose data set cannot fill their bags, and the demo's images in more shards than there are."""
    for name, drawn in config.shards.datasets.items():
        if config.demo is not None and config.draws(drawn.path) and drawn.num_shards > config.demo.num_tiles:
            yield f"shards.datasets.{name}.num_shards = {drawn.num_shards}, but the demo has only {config.demo.num_tiles} images (demo.num_tiles)"
    for name, source in config.views.sources.items():
        dataset = config.shards.datasets.get(source.dataset)
        if dataset is None:
            continue
        num_images = config.demo.num_tiles if config.demo is not None and config.draws(dataset.path) else None
        yield from (f"views.sources.{name}{problem}" for problem in source.problems(dataset, num_images))


def _bag_problems(config: Config) -> Iterator[str]:
    for name, run in config.pretrain.runs.items():
        source = config.views.sources.get(run.source)
        if source is None:
            continue
        key = f"pretrain.runs.{name}"
        if run.pretext == "video_pairs" and not source.has_equal_steps:
            yield (
                f"{key}.pretext = 'video_pairs' draws its own pairs from frames at equal distances, which source {run.source!r} does "
                "not have; take a source of kind video with frame_step: 1"
            )
        if run.needs_scores and run.source not in config.consistency.sources:
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
    crop_run = config.pretrain.runs.get(config.consistency.crop_run or "")
    if crop_run is not None and crop_run.pretext != "crops":
        yield (
            f"consistency.crop_run = {config.consistency.crop_run!r} has pretext {crop_run.pretext} and draws no crop pairs; name a "
            "run with pretext crops, or leave it out for CropMAE's crops"
        )


def _patch_problems(config: Config) -> Iterator[str]:
    """Sides in pixels that the patches of an encoder, where its settings say how large they are, do not divide."""
    sides: list[tuple[str, int | Sequence[int], str, EncoderSettings]] = [
        (f"propagation.datasets.{name}.input_size", protocol.input_size, f"propagation.encoders.{judged}", encoder)
        for name, protocol in config.propagation.datasets.items()
        for judged, encoder in config.propagation.encoders.items()
    ]
    if config.consistency.sources:
        sides.append(("consistency.image_size", config.consistency.image_size, "consistency.encoder", config.consistency.encoder))
    for name, generator in config.views.generators.items():
        if (train := generator.train) is not None:
            key = f"views.generators.{name}.train"
            sides.append((f"{key}.encoder_image_size", train.encoder_image_size, f"{key}.encoder", train.encoder))
    for name, source in config.views.sources.items():
        if source.encoder_settings is not None:
            size = getattr(source, "image_size", 0)
            sides.append((f"views.sources.{name}.image_size", size, f"views.sources.{name}.encoder", source.encoder_settings))
    refused: dict[tuple[str, int], list[str]] = {}
    for key, size, named, encoder in sides:
        patch = _patch_size(config, encoder)
        if patch is not None and any(side % patch for side in ([size] if isinstance(size, int) else size)):
            refused.setdefault((f"{key} = {size}", patch), []).append(named)
    given = {f"{key} = {size}": [size] if isinstance(size, int) else list(size) for key, size, *_ in sides}
    for (written, patch), encoders in refused.items():
        below, above = ([max(1, way * (way * side // patch)) * patch for side in given[written]] for way in (1, -1))
        fits = " or ".join(dict.fromkeys(str(fit if len(fit) > 1 else fit[0]) for fit in (below, above)))
        yield f"{written}: no multiple of {patch}, the patch size of {', '.join(encoders)}; write {fits}, or leave that encoder out"


def _patch_size(config: Config, encoder: EncoderSettings) -> int | None:
    run = config.pretrain.runs.get(encoder.run or encoder.random_like or "")
    return run.patch_size if run is not None else encoder.named_patch_size


def _cycle_problems(config: Config) -> Iterator[str]:
    """What a view source is made of must not need a run that trains on that source: it could never start."""
    for name in config.views.sources:
        trail = _way_back(config, name, [])
        if trail:
            yield f"views.sources.{name}: circular, {' <- '.join(trail)}; take an encoder of a run of a crops source there"


def _way_back(config: Config, source_name: str, trail: list[str]) -> list[str]:
    """The names from a source back to itself through generators, encoders and runs; empty if there is no such way."""
    if source_name in trail:
        return [*trail, source_name] if trail[0] == source_name else []
    needed = [config.pretrain.runs[name].source for name in _runs_behind(config, source_name)]
    return next((way for source in needed if (way := _way_back(config, source, [*trail, source_name]))), [])


def _runs_behind(config: Config, source_name: str) -> list[str]:
    """The runs whose encoders a source needs, itself or through its generator."""
    source = config.views.sources.get(source_name)
    if source is None:
        return []
    generator = config.views.generators.get(source.generator_name or "")
    training = generator.train if generator is not None else None
    encoders = [source.encoder_settings, training.encoder if training is not None else None]
    return [encoder.run for encoder in encoders if encoder is not None and encoder.run in config.pretrain.runs]


def _score_cycle_problems(config: Config) -> Iterator[str]:
    """A run that waits for scores, and whose encoder (or what its views come from) the scores wait for, could never start."""
    waiting, seen = [config.consistency.encoder.run], set[str]()
    while waiting:
        name = waiting.pop()
        if name not in config.pretrain.runs or name in seen:
            continue
        seen.add(name)
        run = config.pretrain.runs[name]
        if run.needs_scores:
            yield (
                f"pretrain.runs.{name} has view_filter or view_weight and so needs scores, but consistency.encoder needs this run "
                "first; score with an encoder that is trained without scores"
            )
        waiting += _runs_behind(config, run.source)


def _num_views_key(name: str, source: Any) -> str:
    """The key that says how many views a source's bags hold."""
    return f"views.sources.{name}.{'sampling.num_views' if source.generator_name is not None else 'num_views'}"
