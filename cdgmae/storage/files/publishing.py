"""The one place from which results are published: it holds the right to write them, and records what they are and where they come from."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cdgmae import __version__, names
from cdgmae.storage.files.atomic import explain_write_errors, write_text
from cdgmae.storage.files.command_line import command_line, influential_words, option_values, paths_of
from cdgmae.storage.files.locks import exclusive_writer
from cdgmae.storage.files.records import files_of, known_sha256, read_record, record_path, write_record
from cdgmae.storage.tables import read_table, stats_digest

LIBRARIES = (
    "torch",
    "timm",
    "diffusers",
    "accelerate",
    "numpy",
    "scipy",
    "pillow",
    "pyarrow",
    "pandas",
    "av",
    "faiss-cpu",
    "simplejpeg",
)
MODULES = {"pillow": "PIL", "faiss-cpu": "faiss"}
"""Modules of libraries that are named otherwise."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk, whatever was written."""

_ONCE_RECORDED: ContextVar[list[Callable[[], object]] | None] = ContextVar("once_recorded", default=None)


def once_recorded(action: Callable[[], object]) -> None:
    """Do what gives up finished work after the results of the surrounding `published` are recorded; at once where there is none.

    A process that is killed before then leaves the work, and the next one has only the results to write.
    """
    actions = _ONCE_RECORDED.get()
    if actions is None:
        action()
    else:
        actions.append(action)


class AlreadyMade(SystemExit):
    """Another process made the same results by the same command while this one waited for it: there is nothing left to do."""

    def __init__(self, output: Path) -> None:
        super().__init__(0)
        self.output = output


@contextmanager
def published(*outputs: Path, work: Path | None = None, inputs: Sequence[Path] | None = None) -> Iterator[None]:
    """Hold the right to write results; once they are whole, record them (`records`).

    While they are written there is no record of them, so none can tell of other bytes. What fails and changes nothing leaves the former one.

    Args:
        outputs: Files and folders that the block writes; the first one is locked for all, and the others may be missing.
        work: Folder of unfinished work that no other run may use at the same time.
        inputs: What they are made from; left out: what the command line names.

    Raises:
        ValueError: if the outputs' folder cannot be written, or the disk is full or read-only.
        AlreadyMade: if another process made them while this one waited.
    """
    with ExitStack() as locks:
        waited = locks.enter_context(exclusive_writer(outputs[0]))
        if waited and _is_made(outputs[0], inputs):
            raise AlreadyMade(outputs[0])
        if work is not None:
            locks.enter_context(exclusive_writer(work))
        former = _former_records(outputs)
        before = _states(outputs)
        with explain_write_errors(outputs[0]):
            for path in former:
                path.unlink()
        actions: list[Callable[[], object]] = []
        token = _ONCE_RECORDED.set(actions)
        try:
            yield
        except BaseException as error:
            full = isinstance(error, OSError) and error.errno in DISK_ERRORS
            if _states(outputs) == before and not full:
                for path, text in former.items():
                    write_text(path, text)
            with explain_write_errors(outputs[0]) if full else nullcontext():
                raise
        finally:
            _ONCE_RECORDED.reset(token)
        metadata = process_metadata(inputs)
        by_record: dict[Path, list[Path]] = {}
        for output in outputs:
            if output.exists():
                by_record.setdefault(record_path(output), []).append(output)
        with explain_write_errors(outputs[0]):
            for path, described in by_record.items():
                write_record(path, described, metadata)
        for action in actions:
            action()


def _is_made(output: Path, inputs: Sequence[Path] | None) -> bool:
    """Whether results stand there that this very command made of the same inputs. Processes of one training all go on."""
    words = command_line()
    if not words or os.environ.get("WORLD_SIZE", "1") != "1":
        return False
    try:
        record = read_record(record_path(output))
    except ValueError:
        return False
    metadata = process_metadata(inputs)
    same = all(record.metadata.get(name) == metadata[name] for name in ("command", "settings", "inputs", "version"))
    files = {record.path.parent / name: known for name, known in record.files.items()}
    return same and all(file.is_file() and file.stat().st_size == known.size for file, known in files.items())


def _former_records(outputs: Sequence[Path]) -> dict[Path, str]:
    """The records of what stands, or stood, in the outputs' places; a folder that is not there yet has none."""
    records = {}
    for output in outputs:
        path = record_path(output)
        if path.is_file() and (output.exists() or _knows(path, output)):
            records[path] = path.read_text(encoding="utf-8", errors="replace")
    return records


def _knows(path: Path, output: Path) -> bool:
    try:
        return read_record(path).sum_of(output) is not None
    except ValueError:
        return True


def _states(outputs: Sequence[Path]) -> list[tuple[Path, int, int]]:
    files = [file for output in outputs if output.exists() for file in files_of(output)]
    return [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def process_metadata(inputs: Sequence[Path] | None = None) -> dict[str, Any]:
    """Where a result of this process comes from: command, settings and their digest, inputs and theirs, seed, versions, machine."""
    words = command_line()
    return {
        "command": ["cdgmae", *words] if words else ["python", *sys.argv],
        "settings": settings_digest(option_values(words, "--settings")),
        "seed": next(iter(option_values(words, "--seed")), ""),
        "inputs": _named_inputs(words) if inputs is None else {str(path): _digest(path) for path in inputs},
        "version": __version__,
        **git_state(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES if MODULES.get(name, name) in sys.modules},
        "device": _device(),
        "host": socket.gethostname(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def settings_digest(given: Sequence[str]) -> str:
    """First 12 hex digits of the SHA-256 of a command's `--settings`; keys of JSON may stand in any order. Empty for none."""
    texts = []
    for text in given:
        if text.lstrip().startswith("{"):
            texts.append(json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")))
        else:
            texts.append(Path(text).read_text(encoding="utf-8") if Path(text).is_file() else text)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12] if texts else ""


def _named_inputs(words: Sequence[str]) -> dict[str, str]:
    """What the command line names, and its digest. That of source images is over the manifest's list of them, which is made of them."""
    images = set(_source_images(words)) if words[:1] == ["shards"] else set()
    named = [path for word in influential_words(words) for path in paths_of(word) if str(path) not in images]
    made_of_images = "--manifest" not in words
    digests = {str(path): _digest(path) for path in named}
    return digests | (dict.fromkeys(sorted(images), _listing_digest(words)) if images and made_of_images else {})


def _listing_digest(words: Sequence[str]) -> str:
    """SHA-256 over the names and sizes of the source images, as the manifest that a command wrote lists them."""
    output = Path(option_values(words, "--output")[0])
    listed = read_table(output if output.suffix == ".parquet" else output / names.MANIFEST, ["source_path", "byte_size"])
    lines = (f"{path} {size}\n" for path, size in zip(*(column.to_pylist() for column in listed.columns), strict=True))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _source_images(words: Sequence[str]) -> Iterator[str]:
    yield from option_values(words, "--root")
    for text in option_values(words, "--settings"):
        if text.startswith("path="):
            yield text.removeprefix("path=")
        elif text.lstrip().startswith("{") and "path" in (settings := json.loads(text)):
            yield str(settings["path"])


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder of results over the sums of its files; of a user's folder over sizes and times."""
    if path.is_file():
        return known_sha256(path)
    if not path.is_dir():
        return ""
    if names.RESULTS not in path.parts and not (path / names.RECORD_SUFFIX).is_file():
        return stats_digest(files_of(path))
    sums = [(file.relative_to(path).as_posix(), known_sha256(file)) for file in files_of(path)]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


@cache
def git_state() -> dict[str, Any]:
    """`git`: revision of the package's own checkout, and `git_dirty`: whether files of it are changed; null for an installed package."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return {"git": None, "git_dirty": None}
    try:
        revision, changed = (
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=20
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return {"git": None, "git_dirty": None}
    return {"git": revision, "git_dirty": bool(changed)}


def _device() -> str:
    """The processor that this process computed on, as far as torch was used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return f"cpu ({platform.machine()})"
