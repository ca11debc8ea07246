"""Logging set-up for command-line jobs: every log starts with where and with what it ran."""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys

from cdgmae import __version__


def start_logging(verbose: bool = False) -> None:
    """Send the package's log lines to standard error, time first."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S",
    )  # fmt: skip
    logging.getLogger("cdgmae").setLevel(logging.DEBUG if verbose else logging.INFO)


def log_job_header() -> None:
    """One line with host, Slurm job, GPUs asked for and versions: what one needs to find a failed job."""
    job = os.environ.get("SLURM_JOB_ID", "none")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    logging.getLogger("cdgmae").info(
        "cdgmae %s, python %s, host %s, slurm job %s, CUDA_VISIBLE_DEVICES %s",
        __version__, platform.python_version(), socket.gethostname(), job, gpus,
    )  # fmt: skip
