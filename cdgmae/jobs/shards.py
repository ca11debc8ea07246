"""Files and settings of stage shards."""

from __future__ import annotations

from cdgmae import names
from cdgmae.jobs.encoders import EncoderJobs
from cdgmae.workflow.source_state import source_state


class ShardJobs(EncoderJobs):
    """Jobs that make image shards."""

    def dataset_inputs(self, dataset: str) -> list[str]:
        """What must exist before a data set can be listed."""
        return self.demo_inputs(self.config.shards.datasets[dataset].path)

    def listing_settings(self, dataset: str) -> str:
        """What decides the manifest, as JSON."""
        return self.config.shards.datasets[dataset].canonical_json(include={"path", "layout", "num_shards", "image_extension"})

    def packing_settings(self, dataset: str) -> str:
        """What decides the bytes of a shard, as JSON: everything but the tolerance for bad images and how changes are noticed."""
        return self.config.shards.datasets[dataset].canonical_json(exclude={"max_bad_fraction", "notice"})

    def source_state(self, dataset: str) -> str:
        """What tells the images of a data set from those that lay there before; the demo's are made by the workflow itself."""
        settings = self.config.shards.datasets[dataset]
        return "" if self.demo_inputs(settings.path) else source_state(settings.path, settings.notice)

    def max_bad_images(self, dataset: str) -> str:
        """The tolerance for bad images: no file depends on it, so it is a resource and no parameter of the rules."""
        return str(self.config.shards.datasets[dataset].max_bad_fraction)

    def gate_settings(self, dataset: str) -> str:
        """What decides what is summarised, as JSON."""
        return self.config.shards.datasets[dataset].canonical_json(include={"path", "layout", "num_shards", "image_extension"})

    def shard_names(self, dataset: str) -> list[str]:
        """All shards of a data set."""
        return names.shard_names(self.config.shards.datasets[dataset].num_shards)

    def shard_files(self, dataset: str) -> list[str]:
        """Tar and index of all shards of a data set."""
        return names.shard_files(names.shards_dir(dataset), self.config.shards.datasets[dataset].num_shards)

    def shard_gate(self, dataset: str) -> str:
        """The summary that exists only if the data set passed its checks."""
        return f"{names.shards_dir(dataset)}/summary.parquet"

    def all_shard_files(self) -> list[str]:
        """Tar and index of all shards of all data sets."""
        return [file for dataset in self.config.shards.datasets for file in self.shard_files(dataset)]

    def all_shard_gates(self) -> list[str]:
        """The summaries of all data sets."""
        return [self.shard_gate(dataset) for dataset in self.config.shards.datasets]
