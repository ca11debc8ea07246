"""Logging set-up for command-line jobs: every log starts with where and with what it ran."""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys

from cdgmae import __version__
from cdgmae.settings.reading.messages import folded


class OneLineFormatter(logging.Formatter):
    """One line per message; a traceback follows in its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See logging."""
        record.message = folded(record.message)
        return super().formatMessage(record)


def start_logging(verbose: bool = False) -> None:
    """Send the package's log lines to standard error, time first."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("cdgmae").setLevel(logging.DEBUG if verbose else logging.INFO)


def log_job_header() -> None:
    """One line with host, Slurm job, GPUs asked for and versions: what one needs to find a failed job."""
    job = os.environ.get("SLURM_JOB_ID", "none")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    logging.getLogger("cdgmae").info(
        "cdgmae %s, python %s, host %s, slurm job %s, CUDA_VISIBLE_DEVICES %s",
        __version__, platform.python_version(), socket.gethostname(), job, gpus,
    )  # fmt: skip
