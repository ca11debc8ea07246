"""The hub of published weights: where it cannot be reached, its cache counts at once, and not after minutes of further tries."""

from __future__ import annotations

import logging
import os
from functools import cache

from cdgmae.settings.runtime import RUN_VARIABLE

logger = logging.getLogger("cdgmae")

OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
REACH_SECONDS = 5.0

FETCH_ADVICE = (
    "in the workflow's folder, `cdgmae fetch` on a machine with network (a cluster's login node) puts all weights of its configuration into "
    "the cache"
)


def keep_slurm_jobs_offline() -> None:
    """Jobs of the workflow on a cluster read the cache alone, unless HF_HUB_OFFLINE=0 says otherwise; call it before the hub is imported."""
    if RUN_VARIABLE in os.environ and "SLURM_JOB_ID" in os.environ:
        os.environ.setdefault(OFFLINE_VARIABLE, "1")


@cache
def use_cache_without_network() -> None:
    """Ask the hub once whether it is there; if not within seconds, this process reads its cache alone."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_SECONDS)
    except Exception as error:  # whatever the client and the network may raise
        logger.warning("%s is not reached (%s): weights are taken from the cache alone", constants.ENDPOINT, error)
        constants.HF_HUB_OFFLINE = True
