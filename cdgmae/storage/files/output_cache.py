"""Finished outputs under a second name, so that a job whose declared outputs were deleted need not make them again.

Snakemake deletes the outputs of a job before it runs and after it failed, also those that a job finished after its controller was
killed; and a changed key that is changed back would train everything a third time. So `cdgmae cluster launch --keep` names whole outputs
again below work/finished/, in a folder per identity, once the command has succeeded, and puts them back at the start of a job of the
same identity. The stages know nothing of this. A new identity deletes nothing: what a failed experiment replaced is found again.

The identity is the digest of the command line without the options that change no result, of the content of every file and folder that it
names, of the package's version and of the precision. The second names are hard links, which take no space until the first names are
deleted; where links are impossible (another device, a file system without them) the files are copied. `rm -r work/finished/views/X` frees
what is kept of source X, and makes sure that it is made again.

Snakemake's own cache between workflows (`cache:`) does not do: the controller stores the outputs, so what a job finishes after its
controller was killed is lost; it takes no directories, and its key is made of the rule's text with the number of threads in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdgmae import __version__
from cdgmae.names import MANIFEST, RESULTS, shard_index
from cdgmae.storage.files.atomic import atomic_file, atomic_folder, explain_write_errors, write_text
from cdgmae.storage.files.command_line import influential_words, option_values, paths_of
from cdgmae.storage.files.paths import text_to_path
from cdgmae.storage.files.records import find_record
from cdgmae.storage.tables import TableError, file_sha256, read_table, stats_digest, table_metadata

logger = logging.getLogger("cdgmae")

FINISHED = Path("work/finished")
RECORD = "record.json"
SHARD_FILE = re.compile(r"\d{5}\.(tar|parquet)")
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""Errors that say that a hard link is impossible here, though a copy may be."""


def identity_of(command: Sequence[str], *, precision: str = "") -> str:
    """What a command's outputs depend on, as a digest.

    Args:
        command: Program and arguments. Of an argument that names a file or folder (also as `NAME=PATH` and `NAME@PATH`) the content
            counts, of a shard's tar its index and size. Files that JSON settings name count alike; of folders, which are the user's,
            sizes and times do. Shards that a data set no longer has do not count.
            A command that packs one shard of a `--manifest` depends on its bytes, which the index names, and on sizes
            and times of the images of that shard alone.
        precision: Precision of the networks.
    """
    words: list[Any] = []
    num_shards = _num_shards([path for word in command[1:] for path in paths_of(word)])
    manifest = next(map(Path, option_values(command, "--manifest")), None)
    for word in influential_words(command[1:]):
        paths = paths_of(word)
        if word.startswith("{") and manifest is not None:
            output = Path(option_values(command, "--output")[0])
            words.append([word, [stats_digest(_packed_files(path, manifest, output)) for path in paths]])
        elif word.startswith("{"):
            words.append([word, [stats_digest(_files(path)) if path.is_dir() else _content(path, num_shards) for path in paths]])
        elif manifest is not None and paths == [manifest]:
            words.append(file_sha256(manifest))
        else:
            words.append([word.replace(str(paths[0]), ""), _content(paths[0], num_shards)] if paths else word)
    return hashlib.sha256(json.dumps([words, __version__, precision]).encode()).hexdigest()[:32]


def _packed_files(root: Path, manifest: Path, tar: Path) -> list[Path]:
    """The files of a data set from which one shard is packed: images, tars that hold them, videos, the frames of a clip's folder."""
    table = read_table(manifest, ["source_path", "tar_path", "shard"])
    rows = table.filter(pc.equal(table["shard"], shard_index(tar.stem)))
    named = dict.fromkeys(pc.coalesce(rows["tar_path"], rows["source_path"]).to_pylist())
    return [file for name in named for file in _files(root / text_to_path(name) if root.is_dir() else root)]


def _num_shards(paths: Sequence[Path]) -> int | None:
    """Most shards that a data set among the named folders and files has, by its manifest; None if none of them is of a data set."""
    manifests = dict.fromkeys((path if path.is_dir() else path.parent) / MANIFEST for path in paths)
    counts = []
    for file in filter(Path.is_file, manifests):
        with contextlib.suppress(TableError):  # a damaged one is told by who reads it
            counts.append(int(table_metadata(file).get("num_shards", 0)))
    return max(counts, default=None)


def _content(path: Path, num_shards: int | None) -> Any:
    """What stands for the content of a file or folder. Of a folder of shards, their tables count and not what lies beside them.

    Args:
        path: File or folder.
        num_shards: Shards from this number on are left over from before and read by nobody.
    """
    if path.is_dir():
        files = _files(path)
        shards = [file for file in files if SHARD_FILE.fullmatch(file.name)]
        shards = [file for file in shards if num_shards is None or shard_index(file.stem) < num_shards] or shards
        return [
            (file.relative_to(path).as_posix(), _content(file, num_shards)) for file in shards or files if not _has_index(file)
        ]
    index = path.with_suffix(".parquet")
    if _has_index(path):
        return [path.stat().st_size, _rows_digest(index)]
    return _rows_digest(path) if path.suffix == ".parquet" else file_sha256(path)


def _has_index(path: Path) -> bool:
    return path.suffix == ".tar" and path.with_suffix(".parquet").is_file()


def _rows_digest(table: Path) -> str:
    """Digest of a table's rows; its metadata, e.g. what it was made from, does not count."""
    digest, rows = hashlib.sha256(), read_table(table).replace_schema_metadata(None)
    with pa.ipc.new_stream(pa.PythonFile(_Sink(digest), mode="w"), rows.schema) as stream:
        stream.write_table(rows.combine_chunks(), max_chunksize=1 << 16)
    return digest.hexdigest()


class _Sink:
    """A file that keeps the digest of what is written."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self.write = digest.update

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def earlier_outputs(output: Path) -> list[Path]:
    """The kept copies of a first output, whatever they were made from, newest first."""
    records = sorted(_copies_of(output).glob(f"*/{RECORD}"), key=lambda record: record.stat().st_mtime, reverse=True)
    return [record.with_name(output.name) for record in records]


def kept_record(record: Path) -> str | None:
    """The text of a result's record as the newest kept copy of the result has it; None if there is none."""
    parts = record.parts
    root = Path(*parts[: len(parts) - 1 - parts[::-1].index(RESULTS)])
    records = sorted((root / FINISHED).rglob(RECORD), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in records:
        beside = root / RESULTS / path.parents[2].relative_to(root / FINISHED)
        for name, text in (_read_record(path) or {}).get("records", {}).items():
            if os.path.normpath(beside / name) == os.path.normpath(record):
                return str(text)
    return None


def _read_record(path: Path) -> dict[str, Any] | None:
    """The record of kept outputs; None if it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record.keys() == {"files", "records"} else None
    except (OSError, ValueError, AttributeError):
        return None


def _copies_of(output: Path) -> Path:
    return FINISHED / Path(*output.parts[1:])


@dataclass(frozen=True, slots=True)
class OutputCache:
    """The kept outputs of one job.

    Attributes:
        outputs: Its files and folders, with different names; the last one is put back last.
        folder: Where they are kept: work/finished/NAME/IDENTITY.
    """

    outputs: tuple[Path, ...]
    folder: Path

    @classmethod
    def of_command(cls, command: Sequence[str], outputs: Sequence[Path], *, precision: str = "") -> OutputCache:
        """The kept outputs of a command: what it writes below results/, the first of which names the folder; see `identity_of`."""
        identity = identity_of(command, precision=precision)
        return cls(tuple(outputs), _copies_of(outputs[0]) / identity)

    def restore(self) -> bool:
        """Put the outputs back under their final names, as new as if they had been made now.

        Returns:
            Whether they are there; False if the work has to be done.

        Raises:
            ValueError: if the outputs cannot be written.
        """
        cached = self.folder
        if not (cached / RECORD).is_file():
            return False
        if (problem := self._problem(cached)) is not None:
            logger.warning("%s %s: the work is done again", cached, problem)
            return False
        logger.info("%s was finished before: it is put back from %s", self.outputs[-1], cached)
        with explain_write_errors(self.outputs[-1]):
            for output in self.outputs:
                _name_again(cached / output.name, output, touch=True)
            for path, text in (_read_record(cached / RECORD) or {})["records"].items():
                write_text(self.outputs[0].parent / path, text)
        return True

    def store(self) -> None:
        """Name the outputs again; a failure to do so is a warning, since the outputs themselves are whole."""
        cached = self.folder
        try:
            (cached / RECORD).unlink(missing_ok=True)
            for output in self.outputs:
                _name_again(output, cached / output.name)
            files = {name: [file.stat().st_size, file_sha256(file)] for name, file in self._kept_files(cached)}
            write_text(cached / RECORD, json.dumps({"files": files, "records": self._records()}, indent=2) + "\n")
        except (OSError, ValueError) as error:
            logger.warning("%s could not be kept in %s: %s", self.outputs[-1], cached, error)

    def _records(self) -> dict[str, str]:
        """The records of the outputs, by their path from where the first output lies."""
        records = {record.path for output in self.outputs for file in _files(output) if (record := find_record(file)) is not None}
        return {os.path.relpath(path, self.outputs[0].parent): path.read_text(encoding="utf-8") for path in sorted(records)}

    def _kept_files(self, cached: Path) -> Iterator[tuple[str, Path]]:
        for output in self.outputs:
            for file in _files(cached / output.name):
                yield file.relative_to(cached).as_posix(), file

    def _problem(self, cached: Path) -> str | None:
        """Why the kept outputs cannot be used; None if they are whole."""
        if (record := _read_record(cached / RECORD)) is None:
            return "has a record that cannot be read"
        files = dict(self._kept_files(cached))
        if files.keys() != record["files"].keys() or not all((cached / output.name).exists() for output in self.outputs):
            return "lacks files"
        damaged = [name for name, file in files.items() if [file.stat().st_size, file_sha256(file)] != record["files"][name]]
        return f"holds a damaged {damaged[0]}" if damaged else None


def _files(path: Path) -> list[Path]:
    """A file itself, or all files of a folder, hidden ones left out."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)]


def _name_again(source: Path, target: Path, *, touch: bool = False) -> None:
    """Give a file, or every file of a folder, a second name; it appears whole and replaces what is there."""
    if source.is_dir():
        with atomic_folder(target) as folder:
            for file in _files(source):
                inside = folder / file.relative_to(source)
                inside.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(file, inside, touch)
    elif target.is_file() and target.samefile(source):
        if touch:
            os.utime(target)
    else:
        with atomic_file(target) as temporary:
            temporary.unlink(missing_ok=True)
            _link_or_copy(source, temporary, touch)


def _link_or_copy(source: Path, target: Path, touch: bool) -> None:
    try:
        os.link(source, target)
        if touch:
            os.utime(target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
