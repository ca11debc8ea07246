"""Which files and settings belong to which job: everything the Snakefile asks of the configuration.

One module per stage; each stage's class knows those before it, and `Jobs` knows all. Import-light, like `cdgmae.config`: it runs
whenever the workflow is parsed, also inside every cluster job.
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

from cdgmae.config import Config
from cdgmae.jobs.report import ReportJobs
from cdgmae.settings.runtime import RUN_VARIABLE


class Jobs(ReportJobs):
    """Files, settings and flags of the workflow's jobs, by wildcard values."""


def export_environment(config: Config) -> None:
    """Put the machine settings into this process's environment, from which all its jobs inherit them.

    The folder of the running Python comes first in PATH, so that jobs find the `cdgmae` beside the `snakemake` that runs them,
    whether or not the environment is activated.
    """
    os.environ |= config.runtime.environment()
    os.environ.setdefault(RUN_VARIABLE, uuid.uuid4().hex)  # the jobs' own snakemake keeps the name that it was given
    folder = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])
