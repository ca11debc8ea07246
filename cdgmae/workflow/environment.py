"""What the jobs of the workflow find in their environment."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

from cdgmae.config import Config
from cdgmae.settings.runtime import RUN_VARIABLE


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
