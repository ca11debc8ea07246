"""Which commands share their work out between several processes, and how a process takes its place among them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cdgmae.runtime.distribution import WORLD_SIZE_VARIABLE, join_group, world_size
from cdgmae.runtime.interrupts import leave_at_once_when_asked

SEVERAL_RANKS = ("pretrain run", "views train-generator", "propagation run")
"""All ranks of a training work on one network; of a propagation each takes its share of the clips."""


def join_ranks(arguments: Sequence[str]) -> None:
    """Join the ranks that `cdgmae cluster launch` started, before anything else happens.

    Args:
        arguments: The command line without the program's name.

    Raises:
        ValueError: if several ranks were started for a command that one process does, or not as many as asked for.
    """
    if WORLD_SIZE_VARIABLE not in os.environ:
        return
    leave_at_once_when_asked()
    join_group()
    verb = " ".join([word for word in arguments if not word.startswith("-")][:2])
    if world_size() > 1 and verb not in SEVERAL_RANKS:
        raise ValueError(
            f"`cdgmae {verb}` runs as one process, but {world_size()} were started; give it nodes 1 and one rank per node. "
            f"Several share out: {', '.join(SEVERAL_RANKS)}"
        )
