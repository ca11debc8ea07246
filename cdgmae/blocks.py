"""Blocks of shards: which shards one job makes, and how the Snakefile says it once for every division.

`runtime.shards_per_job` divides the shards of each data set and source into blocks. At 1 there is a single block of patterns,
`{source}` and `{shard}`, and a rule made from it is an ordinary rule with wildcards. Above 1 every block has its own rule with concrete
names. What Snakemake records of a job (parameters, command, inputs) is the same for every division, so a new one makes nothing anew;
only the scoring jobs, whose inputs are the view shards of their block, are started again.

Import-light, like `cdgmae.config`: it runs whenever the workflow is parsed, also inside every cluster job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cdgmae import names
from cdgmae.config import Config

BLOCK_RULES = (
    "write_shard", "sample_views", "sample_pipeline", "embed_images", "gather_neighbours", "gather_random", "read_clips", "score_views",
)  # fmt: skip
"""The rules whose jobs make a block of shards each."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive shards of one data set or source that one job makes.

    Attributes:
        name: The data set or source, or the pattern that stands for any, e.g. `{source}`.
        shards: Names of the shards, or the pattern that stands for any one, `{shard}`.
    """

    name: str
    shards: tuple[str, ...]

    @property
    def is_pattern(self) -> bool:
        """Whether the names are patterns, which Snakemake fills in for each job."""
        return self.name.startswith("{")

    def __str__(self) -> str:
        """Folder and name of the block's log and benchmark: `s_ldm/00000-00015`, `s_ldm/00016` or `{source}/{shard}`."""
        first, last = self.shards[0], self.shards[-1]
        return f"{self.name}/{first}" if first == last else f"{self.name}/{first}-{last}"

    @property
    def words(self) -> str:
        """The block in a rule's message."""
        if self.is_pattern:
            return f"{{wildcards.{self.name.strip('{}')}}}, shard {{wildcards.shard}}"
        first, last = self.shards[0], self.shards[-1]
        return f"{self.name}, " + (f"shard {first}" if first == last else f"shards {first} to {last}")

    def rule(self, base: str) -> str:
        """Name of the rule that makes this block: `base` itself for patterns, else e.g. `sample_views_s_ldm_00016`."""
        return base if self.is_pattern else f"{base}_{self.name}_{self.shards[0]}"

    def files(self, folder: str, suffix: str) -> list[str]:
        """One file per shard in a folder.

        Args:
            folder: May hold the pattern of the name.
            suffix: With its dot, e.g. `.tar`.
        """
        return [f"{folder}/{shard}{suffix}" for shard in self.shards]

    def of(self, function: Callable[[str], Any]) -> Callable[[Any], Any]:
        """A function of wildcards, as rules take it, from one of the data set's or source's name."""
        return lambda wildcards: function(self._filled(wildcards).name)

    def each(self, function: Callable[[str, str], Sequence[str]]) -> Callable[[Any], list[str]]:
        """A function of wildcards from one that gives the files of one shard, from name and shard."""

        def files_of_all(wildcards: Any) -> list[str]:
            block = self._filled(wildcards)
            return [file for shard in block.shards for file in function(block.name, shard)]

        return files_of_all

    def flags(self, option: str, function: Callable[[str, str], str]) -> Callable[[Any, Any], str]:
        """`OPTION FILE` for every shard, from a function of name and shard, as a parameter of a rule.

        Snakemake does not record parameters whose function takes `output`, so a new division does not count as a new parameter.
        """

        def flags_of_all(wildcards: Any, output: Any) -> str:
            block = self._filled(wildcards)
            return " ".join(f"{option} {function(block.name, shard)}" for shard in block.shards)

        return flags_of_all

    def _filled(self, wildcards: Any) -> Block:
        """This block, with the values of a job's wildcards for patterns."""
        return Block(getattr(wildcards, self.name.strip("{}")), (wildcards.shard,)) if self.is_pattern else self


class Blocks:
    """The blocks of a configuration, by data set or by source."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def of_datasets(self) -> list[Block]:
        """Blocks of the shards of all data sets."""
        return self._patterns("dataset") or [block for name in self.config.shards.datasets for block in self.of_dataset(name)]

    def of_sources(self, *kinds: str) -> list[Block]:
        """Blocks of the shards of all sources of these kinds; of all sources if no kind is given."""
        sources = [name for name, source in self.config.views.sources.items() if source.kind in kinds or not kinds]
        return self._patterns("source") or [block for name in sources for block in self.of_source(name)]

    def of_dataset(self, dataset: str) -> list[Block]:
        """Blocks of the shards of one data set, with concrete names also at one shard per job."""
        return self._divided(dataset, dataset)

    def of_source(self, source: str) -> list[Block]:
        """Blocks of the shards of one source, with concrete names also at one shard per job."""
        return self._divided(source, self.config.views.sources[source].dataset)

    def _patterns(self, wildcard: str) -> list[Block]:
        return [Block(f"{{{wildcard}}}", ("{shard}",))] if self.config.runtime.shards_per_job == 1 else []

    def _divided(self, name: str, dataset: str) -> list[Block]:
        shards = names.shard_names(self.config.shards.datasets[dataset].num_shards)
        size = self.config.runtime.shards_per_job
        return [Block(name, tuple(shards[start : start + size])) for start in range(0, len(shards), size)]


def base_rule(name: str) -> str:
    """What the rule of a block is named after, e.g. `sample_views`; of any other rule its own name."""
    return next((base for base in BLOCK_RULES if name.startswith(f"{base}_")), name)


def hand_down_profile(workflow: Any) -> None:
    """Let `set-resources` and `set-threads` of a profile or the command line for, say, `sample_views` hold for the rules of its blocks.

    Snakemake itself knows those by their full names only, which come last here as well. The settings are left as they are: they
    are handed on to every submitted job, which parses the workflow again.

    Args:
        workflow: Snakemake's workflow, all of whose rules are defined.
    """
    resources, threads = workflow.resource_settings.overwrite_resources, workflow.resource_settings.overwrite_threads
    for rule in workflow.rules:
        base = base_rule(rule.name)
        for name in (base, rule.name) if base != rule.name else ():
            rule.resources.update(resources.get(name, {}))
            if name in threads:
                rule.resources["_cores"] = threads[name]
