"""What Snakemake would do, asked in this process: a plan of a small tree takes a tenth of a second instead of some."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, PrintDag, Quietness, ResourceSettings

from cdgmae.workflow.source_state import source_state
from tests.workflow.conftest import ROOT, Workplace


@contextlib.contextmanager
def _restored_environment() -> Iterator[None]:
    before, folder = dict(os.environ), Path.cwd()
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


def planned(place: Workplace, *targets: str) -> set[str]:
    """The jobs that a run would start now, e.g. `score_views s_ldm 00001`; target rules are left out."""
    source_state.cache_clear()
    output = OutputSettings(quiet={Quietness.ALL})
    with _restored_environment(), contextlib.redirect_stdout(io.StringIO()), SnakemakeApi(output) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=2),
            config_settings=ConfigSettings(configfiles=[place.config_file]),
            snakefile=ROOT / "Snakefile",
            workdir=place.folder,
        )
        workflow.dag(DAGSettings(targets=set(targets), print_dag_as=str(PrintDag.DOT))).printdag()
        jobs = [job for job in workflow._workflow.dag.needrun_jobs() if job.output]
        return {" ".join([job.rule.name, *job.wildcards]) for job in jobs}
