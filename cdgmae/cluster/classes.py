"""The resource classes of a Snakemake profile: which kinds of Slurm job its rules ask for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yte

PROFILE_FILES = ("profile.yaml", "config.yaml")
"""Names of a profile's file, in the order in which Snakemake looks for them."""

DEFAULT_CLASS = "default-resources"
PROBE_MINUTES = 10


@dataclass(frozen=True)
class ResourceClass:
    """Rules that ask for the same nodes: their names, their resources as Snakemake evaluates them, and threads."""

    rules: tuple[str, ...]
    resources: dict[str, Any]
    threads: int


def read_classes(profile: Path) -> list[ResourceClass]:
    """The default resources of a profile and those of each of its rules; equal ones, apart from their time limit, are one class.

    Raises:
        ValueError: if there is no profile, it is not for Slurm, or an entry cannot be evaluated.
    """
    path = next((profile / name for name in PROFILE_FILES if (profile / name).is_file()), None)
    if path is None:
        raise ValueError(
            f"--profile {profile}: holds neither of {', '.join(PROFILE_FILES)}; give the folder of a Snakemake profile"
        )
    content = yte.process_yaml(path.read_text(encoding="utf-8"), require_use_yte=True)  # as Snakemake reads it
    if not isinstance(content, dict) or content.get("executor") != "slurm":
        raise ValueError(f"{path}: has no line `executor: slurm`, so it sends no jobs to Slurm; give another --profile")
    defaults = _section(content, "default-resources", path)
    threads = _section(content, "set-threads", path)
    classes: dict[str, ResourceClass] = {}
    for rule, own in ({DEFAULT_CLASS: {}} | _section(content, "set-resources", path)).items():
        evaluated, cores = _evaluate(defaults, own, rule, path), int(threads.get(rule, 1))
        key = json.dumps([evaluated, cores], sort_keys=True, default=str)
        rules = classes[key].rules if key in classes else ()
        classes[key] = ResourceClass((*rules, rule), evaluated, cores)
    return list(classes.values())


def _section(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise ValueError(f"{path}: {name} must be a mapping, found {type(section).__name__}")
    return section


def _evaluate(defaults: dict[str, Any], own: dict[str, Any], rule: str, path: Path) -> dict[str, Any]:
    """A rule's resources as Snakemake evaluates them for a first attempt without input, with the time limit and signals of the probe."""
    from snakemake.iocontainers import InputFiles, Wildcards
    from snakemake.resources import Resources
    from snakemake_interface_common.exceptions import WorkflowError

    context = {"wildcards": Wildcards(), "input": InputFiles(), "attempt": 1, "threads": 1, "rulename": rule, "async_run": None}
    try:
        parsed = Resources()
        for section in (defaults, own):
            parsed.update(Resources.parse([f"{name}={value}" for name, value in section.items()], allow_expressions=True))
        values = dict(parsed.expand_items(constraints={}, evaluate=lambda one: one.evaluate(**context), expand_sized=False))
    except (WorkflowError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: the resources of {rule} cannot be evaluated: {error}") from None
    runtime = values.get("runtime")
    values["runtime"] = min(runtime, PROBE_MINUTES) if isinstance(runtime, int) else PROBE_MINUTES
    if values.get("slurm_extra"):  # a signal ahead of the rule's own limit would reach the short probe at once
        words = shlex.split(str(values["slurm_extra"]))
        values["slurm_extra"] = shlex.join(word for word in words if not word.startswith("--signal"))
    return values
