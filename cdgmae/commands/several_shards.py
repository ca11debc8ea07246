"""Several shards in one command: what is loaded is loaded once, and what is whole is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cdgmae.runtime.distribution import rank, share_of, world_size
from cdgmae.runtime.interrupts import Interrupted, ShareFailed
from cdgmae.storage.files.locks import exclusive_writer

logger = logging.getLogger("cdgmae")

COUNTS = ("images", "clips", "ok", "views", "pairs", "bad", "short_bags", "found_finished", "restored")
"""Facts of a shard that are summed over several; `restored` counts the shards that were found finished in --finished."""


def pair_outputs(shards: Sequence[Path], output: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Each shard with the file to write for it.

    Args:
        shards: Image shards.
        output: One file for one shard, or a folder, in which every shard gets a file of its name.
        suffix: Suffix of the files, `.tar` or `.parquet`; it tells a file from a folder.

    Raises:
        ValueError: if several shards would be written to one file.
    """
    if output.suffix == suffix:
        if len(shards) > 1:
            raise ValueError(
                f"--output {output} is one file, but {len(shards)} shards were given; give a folder, in which every shard gets a file of "
                "its name"
            )
        return [(shards[0], output)]
    targets = [output / f"{shard.stem}{suffix}" for shard in shards]
    if len(set(targets)) < len(targets):
        raise ValueError(
            f"several of the given shards have the same name, so their files in {output} would be the same; give each once"
        )
    return list(zip(shards, targets, strict=True))


def work_folder(work: Path | None, output: Path, target: Path) -> Path:
    """Where a shard's unfinished work lies: `work` itself for one file, a folder per shard in it for an output folder."""
    if work is None:
        return target.parent / f".work-{target.stem}"
    return work if target == output else work / target.stem


def each_shard(pairs: Sequence[tuple[Path, Path]], output: Path, make: Callable[[Path, Path], dict[str, Any]]) -> dict[str, Any]:
    """Make shard after shard, each under its own lock. One that fails does not keep the others from being made.

    Of several processes of one job each makes a consecutive share of the shards.

    Args:
        pairs: See `pair_outputs`.
        output: What the user named.
        make: Makes one file from one shard and returns its facts.

    Returns:
        The facts of one file; for a folder its name, the number of shards and the sums of their counts. With several processes the
        number of processes, too; shards and counts are then this process's own.

    Raises:
        Interrupted: if a shard was interrupted, at once.
        ValueError: when all have been tried, naming those that failed with their reasons; of a single shard, its own error.
    """
    facts, failures = [], {}
    own = share_of(range(len(pairs)), rank(), world_size())
    for number, index in enumerate(own, start=1):
        shard, target = pairs[index]
        if len(pairs) > 1:
            logger.info("shard %s: %d of %d", target.stem, number, len(own))
        try:
            with exclusive_writer(target):
                facts.append(make(shard, target))
        except Interrupted:
            raise
        except Exception as error:
            if len(pairs) == 1:
                raise
            failures[target.stem] = str(error) or type(error).__name__
            logger.error("shard %s failed: %s", target.stem, error, exc_info=not isinstance(error, (ValueError, OSError)))
    if failures:
        raise ShareFailed(
            f"{len(failures)} of {len(own)} shards failed, the others are whole:\n"
            + "\n".join(f"  {shard}: {reason}" for shard, reason in failures.items())
        )
    if output == pairs[0][1] and facts:
        return facts[0]
    sums = {name: sum(found.get(name, 0) for found in facts) for name in COUNTS if any(name in found for found in facts)}
    processes = {"processes": world_size()} if world_size() > 1 else {}
    return {"output": str(output), "shards": len(own), **processes, **sums}
