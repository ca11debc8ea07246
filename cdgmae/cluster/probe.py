"""One short job per resource class: submit all, wait, and gather what their tasks found."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cdgmae.cluster.classes import ResourceClass, read_classes
from cdgmae.cluster.queue import call_slurm, cancel_jobs, own_jobs, wait_until_gone

LATENCY_SECONDS = 60
"""How long the report of an ended job may take to show up on a shared file system."""

END_SECONDS = 30
"""How long jobs whose reports are there get to end, before their logs are removed."""

EXIT_FILE = "exit_code"
LOG_LINES = 8


class _Resources(dict[str, Any]):
    """Resources as the executor reads them: by key and by attribute."""

    __getattr__ = dict.__getitem__


@dataclass
class _Probe:
    """One submitted probe: its class, its folder of reports and log, its job and how it stands."""

    wanted: ResourceClass
    folder: Path
    job: str | None = None
    problems: list[str] = field(default_factory=list)
    ended: float | None = None

    def reports(self) -> list[dict[str, Any]]:
        reports = [json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob("[0-9]*.json")]
        return sorted(reports, key=lambda report: report["task"])

    @property
    def is_complete(self) -> bool:
        reports = self.reports()
        return bool(reports) and len(reports) == reports[0]["tasks"]

    @property
    def has_failed(self) -> bool:
        """Whether the job's script came to its end and says so; a job that Slurm killed as a whole says nothing."""
        written = self.folder / EXIT_FILE
        return written.is_file() and written.read_text().strip() not in ("", "0")


def probe_cluster(
    profile: Path, folder: Path, config: Sequence[Path], wait_minutes: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Submit one short job for each resource class of a profile and gather the reports.

    Args:
        profile: Folder of the Snakemake profile.
        folder: The workflow's working folder, on a file system that all nodes share.
        config: The configuration whose networks of the hub every class tries to load; none: no networks.
        wait_minutes: How long to wait for all jobs; those that have not ended by then are cancelled.
        say: Called with a line for people whenever something happens.

    Returns:
        `classes`: for each class its rules, job id, the reports of its tasks (see `probe_node`) and problems in words;
        `ok`: whether there are none.

    Raises:
        ValueError: if there is no Slurm here, the executor is not installed, or the profile cannot be read.
    """
    if shutil.which("sbatch") is None:
        raise ValueError(
            "sbatch is not on PATH, so there is no Slurm here; run `cdgmae doctor --cluster` on a node from which jobs are "
            "submitted (perhaps after `module load slurm`), or leave out --cluster"
        )
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise ValueError("Snakemake's Slurm executor is not installed; run `pip install 'cdgmae[slurm]'`")
    classes = read_classes(profile)
    scratch = Path(tempfile.mkdtemp(prefix=".cdgmae-doctor-", dir=folder.absolute()))
    probes = [_Probe(wanted, scratch / str(number)) for number, wanted in enumerate(classes)]
    try:
        for probe in probes:
            _submit(probe, folder.absolute(), config)
            say(f"{', '.join(probe.wanted.rules)}: " + (f"job {probe.job}" if probe.job else "not submitted"))
        _wait(probes, wait_minutes * 60, say)
    finally:
        cancel_jobs([probe.job for probe in probes if probe.job and not probe.is_complete])
    results = [_result(probe) for probe in probes]
    ok = not any(result["problems"] for result in results)
    if ok:
        wait_until_gone([probe.job for probe in probes if probe.job], END_SECONDS)
        shutil.rmtree(scratch, ignore_errors=True)  # a network file system may keep an open log a moment longer
    return {"ok": ok, "logs": None if ok else str(scratch), "classes": results}


def submit_line(wanted: ResourceClass, name: str, log: Path, folder: Path) -> list[str]:
    """The `sbatch` command for a class: the options that Snakemake's executor would give a rule with these resources.

    Raises:
        ValueError: if the executor refuses the resources.
    """
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string
    from snakemake_interface_common.exceptions import WorkflowError

    resources = _Resources(wanted.resources)
    job = SimpleNamespace(resources=resources, threads=wanted.threads)
    account, partition = resources.get("slurm_account"), resources.get("slurm_partition")
    params = {
        "run_uuid": name, "slurm_logfile": log, "comment_str": "cdgmae doctor", "workdir": folder,
        "account": f"-A {shlex.quote(str(account))}" if account else "",
        "partition": f"-p {shlex.quote(str(partition))}" if partition else "",
    }  # fmt: skip
    try:
        return shlex.split(get_submit_command(job, params) + set_gres_string(job))
    except WorkflowError as error:
        raise ValueError(f"the executor refuses the resources of {', '.join(wanted.rules)}: {error}") from None


def _submit(probe: _Probe, folder: Path, config: Sequence[Path]) -> None:
    probe.folder.mkdir()
    command = [sys.executable, "-m", "cdgmae.cli", "cluster", "probe", "--folder", str(folder), "--reports", str(probe.folder)]
    command += ["--json", *(word for path in config for word in ("--config", str(path.absolute())))]
    # Without tasks of its own a class gets one, whatever Slurm makes of its GPUs; with them srun takes over the job's layout.
    layout = [] if probe.wanted.resources.get("mpi") else ["--ntasks=1"]
    exit_file = shlex.quote(str(probe.folder / EXIT_FILE))
    script = f"{shlex.join(['srun', *layout, *command])}; code=$?; echo $code > {exit_file}; exit $code"
    try:
        line = submit_line(probe.wanted, f"cdgmae-doctor-{uuid.uuid4()}", probe.folder / "log.txt", folder)
        probe.job = call_slurm(*line, "--no-requeue", "--wrap", script).strip().split(";")[0]
    except ValueError as error:  # a class that cannot be submitted is a finding; the others are tried all the same
        probe.problems.append(str(error))


def _wait(probes: list[_Probe], seconds: float, say: Callable[[str], None]) -> None:
    started = time.monotonic()
    while open_probes := [probe for probe in probes if probe.job and not probe.problems and not probe.is_complete]:
        waited = time.monotonic() - started
        queued = {job.id: job for job in own_jobs()}
        for probe in open_probes:
            job = queued.get(probe.job or "")
            if job is not None and waited > seconds:
                probe.problems.append(
                    f"job {probe.job} is still {job.state} ({job.reason}) after {seconds / 60:g} min and was cancelled; "
                    "wait longer with --wait, or check partition and resources"
                )
            elif job is None:
                probe.ended = probe.ended or time.monotonic()
                if time.monotonic() - probe.ended > LATENCY_SECONDS or probe.has_failed:
                    probe.problems.append(f"job {probe.job} ended without a report from each of its tasks: {_log_tail(probe)}")
            if probe.problems:
                say(f"job {probe.job}: failed")
        time.sleep(min(10.0, 1.0 + waited / 20))


def _log_tail(probe: _Probe) -> str:
    log = probe.folder / "log.txt"
    if not log.is_file():
        return f"no log came to {log}; do the nodes share this folder?"
    return " / ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LOG_LINES:]) or "its log is empty"


def _result(probe: _Probe) -> dict[str, Any]:
    reports = probe.reports()
    problems = [f"task {report['task']} on {report['node']}: {problem}" for report in reports for problem in report["problems"]]
    wanted = probe.wanted.resources
    tasks = int(wanted.get("tasks_per_node") or 0) * int(wanted.get("nodes") or 1) or int(wanted.get("tasks") or 1)
    if wanted.get("mpi") and reports and reports[0]["tasks"] != tasks:
        problems.append(f"the class asks for {tasks} tasks, but {reports[0]['tasks']} were started")
    return {
        "rules": list(probe.wanted.rules),
        "asked": wanted,
        "job": probe.job,
        "tasks": reports,
        "problems": probe.problems + problems,
    }
