"""Files and settings of stage pretrain."""

from __future__ import annotations

from collections.abc import Iterable

from cdgmae import names
from cdgmae.config import Config
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.workflow import consistency, shards, views

SEED_STRIDE = 1_000_003
"""Distance between the seeds of two root seeds: no run seed below it can collide with another root's."""

RUN_OUTPUTS = ("panels", "metrics.parquet", "config.json", "model.safetensors", "encoder.safetensors")
"""What a run leaves in its folder; the encoder is written last."""


def dataset_of_run(config: Config, run: str) -> str:
    """The data set behind a pre-training run."""
    return views.dataset_of(config, config.pretrain.runs[run].source)


def run_settings(config: Config, run: str) -> PretrainRunSettings:
    """Settings of a run, with what part of the real image its source's views show."""
    settings = config.pretrain.runs[run]
    region = settings.views_show or config.views.sources[settings.source].shown_region
    return settings.model_copy(update={"views_show": region}) if settings.pretext == "cross_view" else settings


def run_summary(config: Config, run: str) -> str:
    """The summary of the data set of a run: it depends on every shard, and is there only if the data set passed its checks."""
    return shards.summary(dataset_of_run(config, run))


def run_shards_folder(config: Config, run: str) -> str:
    """The folder of the real images of a run."""
    return names.shards_dir(dataset_of_run(config, run))


def run_views(config: Config, run: str) -> list[str]:
    """View shards that a run trains on; a run that crops real images needs none."""
    settings = config.pretrain.runs[run]
    return views.view_files(config, settings.source) if settings.trains_on_views else []


def run_images(config: Config, run: str) -> list[str]:
    """Shards of the real images of a run."""
    return shards.shard_files(config, dataset_of_run(config, run))


def images_of_runs(config: Config, runs: Iterable[str]) -> list[str]:
    """The same of several runs, each once: targets ask for them, so that a lost one is made again before a run that reads it."""
    return list(dict.fromkeys(file for run in runs for file in run_images(config, run)))


def all_images(config: Config) -> list[str]:
    """Shards of the real images of all runs."""
    return images_of_runs(config, config.pretrain.runs)


def run_views_flag(config: Config, run: str) -> str:
    """`--views FOLDER` for a run that trains on view shards, else nothing."""
    return f"--views {names.views_dir(config.pretrain.runs[run].source)}" if run_views(config, run) else ""


def run_scores(config: Config, run: str) -> list[str]:
    """Score tables by which a run chooses views; none for a run without `view_filter` and `view_weight`."""
    settings = config.pretrain.runs[run]
    return consistency.score_tables(config, settings.source) if settings.needs_scores else []


def run_scores_flag(config: Config, run: str) -> str:
    """`--consistency FOLDER` for a run that chooses views by their scores, else nothing."""
    return f"--consistency {names.consistency_dir(config.pretrain.runs[run].source)}" if run_scores(config, run) else ""


def run_seed(config: Config, seed: str) -> int:
    """The seed handed to a run: root seed and run seed combined."""
    return config.seed * SEED_STRIDE + int(seed)


def all_encoder_files(config: Config) -> list[str]:
    """The encoders of all runs and seeds."""
    return [names.encoder_file(run, seed) for run, seed in all_runs(config)]


def all_runs(config: Config) -> list[tuple[str, int]]:
    """Every run with every seed."""
    return [(run, seed) for run in config.pretrain.runs for seed in config.pretrain.seeds]


def results(config: Config) -> list[str]:
    """All files of the stage."""
    return [f"{names.run_dir(run, seed)}/{name}" for run, seed in all_runs(config) for name in RUN_OUTPUTS]
