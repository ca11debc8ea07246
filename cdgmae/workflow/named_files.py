"""What a configuration names on this machine: files and folders that must be there, and hold what they are named for."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdgmae import names
from cdgmae.config import Config, ConfigError, check_config, read_files
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS, kinds_laid_out_as
from cdgmae.settings.demo import DemoSettings
from cdgmae.settings.encoder import HUB_PREFIXES, LOCAL_PREFIX
from cdgmae.settings.reading.plain_values import NotPlain, check_plain, read_yaml
from cdgmae.settings.shards import DatasetSettings

PATH_KEYS = ("path", "root", "checkpoint", "directory", "start_from")
FREE_KEYS = ("arguments",)
"""Below these nothing is a path of the configuration's."""


def check_run(values: Mapping[str, Any], origin: str, files: Sequence[str | Path] = (), others: Sequence[str] = ()) -> Config:
    """Check a configuration and the files and folders that it names, before any job runs.

    Args:
        values: Plain values, as `check_config` takes them.
        origin: The file names to blame.
        files: YAML files behind the values, if something else than `read_yaml` read them: keys that stand there twice are refused.
        others: Problems that were found besides.

    Raises:
        ConfigError: one message with every problem of keys, paths, data folders and numbers of shards.
    """
    problems, told = list(others), list[str]()
    try:
        check_plain(values, origin)  # before anything walks them
        problems += file_problems(values)
    except NotPlain as error:
        problems += file_problems(error.values)
        told = error.problems
    except ValueError:  # said by check_config
        pass
    for file in files:
        if Path(file).suffix in (".yaml", ".yml"):
            try:
                read_yaml(Path(file))
            except NotPlain as error:
                problems += (f"{file}: {problem}" for problem in error.problems if problem not in told)
            except ValueError as error:
                problems.append(str(error))
    try:
        config = check_config(values, origin)
    except ConfigError as error:
        problems = [*error.problems, *problems]
    if problems:
        raise ConfigError.of(origin, problems)
    return config


def load_run(*files: Path, others: Callable[[Mapping[str, Any]], Sequence[str]] = lambda values: ()) -> Config:
    """Read YAML files, laid over each other, and check them with what they name.

    Args:
        files: The files.
        others: Finds further problems of the plain values.

    Raises:
        ConfigError: as `read_files` and `check_run`.
    """
    problems: list[str] = []
    values = read_files(*files, problems=problems)
    return check_run(values, ", ".join(map(str, files)), others=[*problems, *others(values)])


def timm_names(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, bool]]:
    """(dotted key, name, whether its published weights are wanted) of every timm model that plain values name and that timm itself lists."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and name not in FREE_KEYS and key != "report":  # whose tables name encoders
            yield from timm_names(value, f"{key}.")
        elif isinstance(value, str) and name in ("timm", "random") and not value.startswith(HUB_PREFIXES):
            yield key, value, name == "timm" and "checkpoint" not in values


def file_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the paths of a configuration, which may have other faults; what the demo draws is not looked for."""
    paths = dict(_paths(values, ""))
    demo = values.get("demo")
    drawn = DemoSettings().directory if isinstance(demo, Mapping) else None
    drawn = paths.get("demo.directory", drawn)
    there = {key: path for key, path in paths.items() if drawn is None or not names.lies_within(path, drawn)}
    problems = [
        f"{key} = {path!r}: empty, or with a brace (which Snakemake reads as a wildcard) or a control character; rename the folder, "
        "or make a link of another name to it"
        for key, path in paths.items()
        if _is_odd(path)
    ]
    problems += [
        f"{key} = {path!r}: does not exist{like_named(path)}; correct it, or make the data available there (relative paths start at the folder in "
        "which snakemake runs)"
        for key, path in there.items()
        if not _is_odd(path) and not os.path.exists(path)
    ]
    usable = {key: Path(path) for key, path in there.items() if os.path.exists(path)}
    for section, problem in (("shards", _shard_problem), ("propagation", _layout_problem)):
        for name, entry in _entries(values, section):
            key = f"{section}.datasets.{name}.{'path' if section == 'shards' else 'root'}"
            if key in usable and (said := problem(name, entry, usable[key])) is not None:
                problems.append(said)
    return problems


def _paths(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """(dotted key, path) of every file and folder that is named."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and name not in FREE_KEYS:
            yield from _paths(value, f"{key}.")
        elif isinstance(value, str) and name in PATH_KEYS:
            yield key, value
        elif isinstance(value, str) and name == "timm" and value.startswith(LOCAL_PREFIX):
            yield key, value.removeprefix(LOCAL_PREFIX)


def like_named(path: str) -> str:
    """The path with its first part that is not there named as something beside it, if that is close and there; a question in brackets, or nothing."""
    parts = Path(path).parts
    missing = next(number for number in range(len(parts)) if not os.path.exists(os.path.join(*parts[: number + 1])))
    try:
        beside = os.listdir(os.path.join("", *parts[:missing]) or ".")
    except OSError:
        return ""
    close = difflib.get_close_matches(parts[missing], beside, n=1, cutoff=0.7)
    meant = [os.path.join(*parts[:missing], name, *parts[missing + 1 :]) for name in close]
    return "".join(f" (did you mean {path!r}?)" for path in meant if os.path.exists(path))


def _is_odd(path: str) -> bool:
    return not path or re.search(r"[{}\x00-\x1f]", path) is not None


def _entries(values: Mapping[str, Any], section: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    inside = values.get(section)
    datasets = inside.get("datasets") if isinstance(inside, Mapping) else None
    if isinstance(datasets, Mapping):
        yield from ((name, entry) for name, entry in datasets.items() if isinstance(entry, Mapping))


def _shard_problem(name: str, dataset: Mapping[str, Any], root: Path) -> str | None:
    """A tree of fewer images than shards."""
    fields = DatasetSettings.model_fields
    layout, num_shards = (dataset.get(key, fields[key].default) for key in ("layout", "num_shards"))
    if layout != "images" or not isinstance(num_shards, int):
        return None
    count = _count_images(root, num_shards)
    if count == 0:
        return (
            f"shards.datasets.{name}.path = {str(root)!r}: holds no image ({', '.join(sorted(names.IMAGE_EXTENSIONS))}); give the folder "
            "of the images, or for tars layout: class_tars or layout: webdataset"
        )
    if count < num_shards:
        return f"shards.datasets.{name}.num_shards = {num_shards}, but {root} holds only {count} image(s); write at most {count}"
    return None


def _count_images(root: Path, enough: int) -> int:
    """Image files below a folder, counted up to `enough`; `enough` if a folder cannot be listed."""
    count, entered, failed = 0, set(), list[OSError]()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=failed.append):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        count += sum(os.path.splitext(file)[1].lower() in names.IMAGE_EXTENSIONS for file in files)
        if count >= enough or failed:
            return enough
    return enough if failed else count


def _layout_problem(name: str, evaluation_set: Mapping[str, Any], root: Path) -> str | None:
    """A folder that holds something else than its kind of evaluation set."""
    kind = str(evaluation_set.get("kind", name))
    laid_out = kinds_laid_out_as(root)
    if kind not in BENCHMARKS or kind in laid_out:
        return None
    benchmark = BENCHMARKS[kind]
    missing = ", ".join(part for part in benchmark.layout if not (root / part).exists())
    problem = f"propagation.datasets.{name}.root = {str(root)!r}: holds no {missing}, as {benchmark.title} (kind {kind}) does"
    folders = (path for path in sorted(root.iterdir()) if path.is_dir()) if root.is_dir() else ()
    near = next((folder for folder in (root.absolute().parent, *folders) if kind in kinds_laid_out_as(folder)), None)
    if near is not None:
        return f"{problem}; {near} does: write that"
    return f"{problem}; it is laid out as kind {' or '.join(laid_out)}" if laid_out else problem
