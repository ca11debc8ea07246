"""What Snakemake would do, asked in this process: a plan of a small tree takes a tenth of a second instead of some."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from snakemake.api import SnakemakeApi
from snakemake.dag import DAG
from snakemake.jobs import Job
from snakemake.parser import parse
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, PrintDag, Quietness, ResourceSettings
from snakemake.sourcecache import SourceFile

from cdgmae.config import load_config
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS
from cdgmae.workflow.source_state import source_state
from tests.workflow.conftest import ROOT, Workplace


def stand_in_data(folder: Path, *files: Path) -> None:
    """Data folders that a configuration names, as far as a plan looks into them: the images are empty files."""
    config = load_config(*files)
    for dataset in config.shards.datasets.values():
        root = folder / dataset.path
        root.mkdir(parents=True, exist_ok=True)
        for number in range(dataset.num_shards):
            (root / f"{number}.jpg").touch()
    for protocol in config.propagation.datasets.values():
        stand_in_set(folder / protocol.root, protocol.kind)


def stand_in_set(root: Path, kind: str) -> None:
    """The folders by which a kind of evaluation set is known."""
    for part in BENCHMARKS[kind].layout:
        (root / part).mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _restored_environment() -> Iterator[None]:
    before, folder = dict(os.environ), Path.cwd()
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


@functools.cache
def _parsed(path: str, rulecount: int) -> list[Any]:
    """Where what a file of the workflow is parsed to is kept: they are the same for all plans."""
    return []


def _parse_once(path: SourceFile, workflow: object, linemap: dict[int, int], rulecount: int) -> tuple[str, int]:
    found = _parsed(path.get_path_or_uri(secret_free=True), rulecount)
    if not found:
        found += [parse(path, workflow, linemap, rulecount=rulecount), linemap]
    linemap |= found[1]
    return found[0]  # type: ignore[no-any-return]


@contextlib.contextmanager
def _dag(place: Workplace, *targets: str) -> Iterator[DAG]:
    source_state.cache_clear()
    output = OutputSettings(quiet={Quietness.ALL})
    parse_once = patch("snakemake.workflow.parse", _parse_once)
    with _restored_environment(), contextlib.redirect_stdout(io.StringIO()), parse_once, SnakemakeApi(output) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=2),
            config_settings=ConfigSettings(configfiles=[place.config_file]),
            snakefile=ROOT / "Snakefile",
            workdir=place.folder,
        )
        workflow.dag(DAGSettings(targets=set(targets), print_dag_as=str(PrintDag.DOT))).printdag()
        yield workflow._workflow.dag


def planned(place: Workplace, *targets: str) -> set[str]:
    """The jobs that a run would start now, e.g. `score_views s_ldm 00001`; target rules are left out."""
    with _dag(place, *targets) as dag:
        return {_name(job) for job in dag.needrun_jobs() if job.output}


def outputs_of_jobs(place: Workplace, *targets: str) -> dict[str, list[str]]:
    """Job -> its declared outputs, of all jobs behind the targets."""
    with _dag(place, *targets) as dag:
        return {_name(job): list(job.output) for job in dag.jobs if job.output}


def commands_of_jobs(place: Workplace, *targets: str) -> dict[str, str]:
    """Job -> its shell command; views have one name however they are made."""
    with _dag(place, *targets) as dag:
        return {_name(job).replace("gather_views", "make_views"): job.shellcmd for job in dag.jobs if job.output}


def _name(job: Job) -> str:
    return " ".join([job.rule.name, *job.wildcards])
