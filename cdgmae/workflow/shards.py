"""Files and settings of stage shards."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cdgmae import names
from cdgmae.config import Config
from cdgmae.workflow import encoders, source_state


def dataset_inputs(config: Config, dataset: str) -> list[str]:
    """What must exist before a data set can be listed."""
    return encoders.demo_inputs(config, config.shards.datasets[dataset].path)


def listing_settings(config: Config, dataset: str) -> str:
    """What decides the manifest, as JSON."""
    return config.shards.datasets[dataset].canonical_json(
        include={"path", "layout", "num_shards", "image_extension", "assignment"}
    )


def packing_settings(config: Config, dataset: str) -> str:
    """What decides the bytes of a shard, as JSON: everything but the tolerance for bad images and how changes are noticed."""
    return config.shards.datasets[dataset].canonical_json(exclude={"max_bad_fraction", "notice"})


def source_digest(config: Config, dataset: str) -> str:
    """What tells the images of a data set from those that lay there before; the demo's are made by the workflow itself."""
    settings = config.shards.datasets[dataset]
    return "" if encoders.demo_inputs(config, settings.path) else source_state.source_state(settings.path, settings.notice)


def max_bad_images(config: Config, dataset: str) -> str:
    """The tolerance for bad images: no file depends on it, so it is a resource and no parameter of the rules."""
    return str(config.shards.datasets[dataset].max_bad_fraction)


def summary_settings(config: Config, dataset: str) -> str:
    """What decides what is summarised, as JSON."""
    return config.shards.datasets[dataset].canonical_json(include={"path", "layout", "num_shards", "image_extension"})


def shard_names(config: Config, dataset: str) -> list[str]:
    """All shards of a data set."""
    return names.shard_names(config.shards.datasets[dataset].num_shards)


def shard_files(config: Config, dataset: str) -> list[str]:
    """Tar and index of all shards of a data set."""
    return names.shard_files(names.shards_dir(dataset), config.shards.datasets[dataset].num_shards)


def summary(dataset: str) -> str:
    """The summary that exists only if the data set passed its checks."""
    return f"{names.shards_dir(dataset)}/summary.parquet"


def forget_failed_checks(config: Config) -> None:
    """Remove the lists by which jobs refuse the images of data sets that failed their check, before they are checked again."""
    for dataset in config.shards.datasets:
        with suppress(OSError):
            Path(names.shards_dir(dataset), names.REFUSED_IMAGES).unlink()


def results(config: Config) -> list[str]:
    """All files of the stage."""
    datasets = config.shards.datasets
    tables = (names.MANIFEST, names.LEFT_OUT, names.BAD_IMAGES, "summary.csv")
    listed = [f"{names.shards_dir(dataset)}/{table}" for table in tables for dataset in datasets]
    return [*(file for dataset in datasets for file in shard_files(config, dataset)), *listed, *summaries(config)]


def summaries(config: Config) -> list[str]:
    """The summaries of all data sets."""
    return [summary(dataset) for dataset in config.shards.datasets]
