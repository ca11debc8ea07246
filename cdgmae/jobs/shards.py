"""Files and settings of stage shards."""

from __future__ import annotations

from cdgmae import names
from cdgmae.jobs.encoders import EncoderJobs


class ShardJobs(EncoderJobs):
    """Jobs that make image shards."""

    def dataset_inputs(self, dataset: str) -> list[str]:
        """What must exist before a data set can be listed."""
        return self.demo_inputs(self.config.shards.datasets[dataset].path)

    def listing_settings(self, dataset: str) -> str:
        """What decides the manifest, as JSON."""
        return self.config.shards.datasets[dataset].canonical_json(include={"path", "layout", "num_shards"})

    def packing_settings(self, dataset: str) -> str:
        """What decides the bytes of a shard, as JSON: everything but the tolerance for bad images."""
        return self.config.shards.datasets[dataset].canonical_json(exclude={"max_bad_fraction"})

    def gate_settings(self, dataset: str) -> str:
        """What decides whether a data set passes, as JSON."""
        return self.config.shards.datasets[dataset].canonical_json(include={"path", "layout", "num_shards", "max_bad_fraction"})

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
