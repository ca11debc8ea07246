"""Finished outputs under a second name, so that a job whose declared outputs were deleted need not make them again.

Snakemake deletes the outputs of a job before it runs and after it failed, whole or not: those of a block of shards in which one
failed, and those that a job finished after its controller was killed. So a stage that has committed its outputs names them again in
a folder under work/, before it removes its resumable state, and looks there before it starts.

The second names are hard links: the same files, which take no space of their own until the first names are deleted. Where links
are impossible (another device, a file system without them) the files are copied and do take space.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgmae import __version__
from cdgmae.storage.files.atomic import atomic_file, atomic_folder, explain_write_errors, write_text
from cdgmae.storage.tables import file_sha256

logger = logging.getLogger("cdgmae")

RECORD_SUFFIX = ".finished.json"
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""Errors that say that a hard link is impossible here, though a copy may be."""


@dataclass(frozen=True, slots=True)
class FinishedFolder:
    """Where finished outputs get their second names.

    Attributes:
        folder: The folder; None: nothing is kept or looked for.
        reuse: Whether kept outputs are put back; False: all work is done anew, and what is kept is replaced.
    """

    folder: Path | None = None
    reuse: bool = True

    def copy_of(self, outputs: Sequence[Path], made_from: Mapping[str, Any]) -> FinishedCopy:
        """The kept copy of what one unit of work writes.

        Args:
            outputs: Its files and folders, with different names; the last one is what later stages wait for, and is put back last.
            made_from: Everything that the outputs depend on, as JSON-able values, without machine settings and paths; the package
                version is added.
        """
        text = json.dumps({**made_from, "version": __version__}, sort_keys=True, default=str)
        return FinishedCopy(self.folder, self.reuse, tuple(outputs), hashlib.sha256(text.encode()).hexdigest())


NOTHING_KEPT = FinishedFolder()
"""For callers that keep nothing."""


@dataclass(frozen=True, slots=True)
class FinishedCopy:
    """The second names of some outputs and the record that says what they are; see `FinishedFolder` for the attributes."""

    folder: Path | None
    reuse: bool
    outputs: tuple[Path, ...]
    identity: str

    @property
    def record_path(self) -> Path:
        """The JSON record, written last: the copy is there only if it is."""
        return self._kept(self.outputs[-1]).with_name(f"{self.outputs[-1].name}{RECORD_SUFFIX}")

    def _kept(self, output: Path) -> Path:
        return (self.folder or Path()) / output.name

    def restore(self) -> dict[str, Any] | None:
        """Put the outputs back under their final names, as new as if they had been made now.

        A copy of another identity, or one whose sizes or SHA-256 do not agree with its record, is removed.

        Returns:
            The facts that `keep` was given, with `restored: True`; None if the work has to be done.

        Raises:
            ValueError: if the outputs cannot be written.
        """
        if self.folder is None or not self.reuse or not self.record_path.is_file():
            return None
        if (problem := self._problem(record := self._read_record())) is not None:
            logger.warning("%s %s: it is removed and the work done anew", self.record_path, problem)
            self._remove()
            return None
        last = self.outputs[-1]
        with explain_write_errors(last):
            if last.is_file() and not last.samefile(self._kept(last)):
                last.unlink()  # of other files: it must not describe the ones that come now
            for output in self.outputs:
                _name_again(self._kept(output), output, touch=True)
        logger.info(
            "%s was found finished in %s and put back. To have it made anew, delete it there too, or set runtime.reuse_finished: false "
            "(--no-reuse-finished)", last, self.folder,
        )  # fmt: skip
        paths = dict(zip(record["outputs"], map(str, self.outputs), strict=True))
        facts = {name: paths.get(value, value) if isinstance(value, str) else value for name, value in record["facts"].items()}
        return {**facts, "restored": True}

    def keep(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Name the committed outputs again; call it before the resumable state is removed.

        A failure to do so is a warning: the outputs themselves are whole.

        Args:
            facts: What the stage returns, JSON-able; kept in the record.

        Returns:
            `facts`.
        """
        if self.folder is None:
            return facts
        try:
            self.record_path.unlink(missing_ok=True)
            for output in self.outputs:
                _name_again(output, self._kept(output))
            files = {name: [path.stat().st_size, file_sha256(path)] for name, path in self._kept_files().items()}
            record = {"identity": self.identity, "outputs": [*map(str, self.outputs)], "files": files, "facts": facts}
            write_text(self.record_path, json.dumps(record, indent=2, default=str) + "\n")
        except OSError as error:
            logger.warning("%s could not be kept in %s: %s", self.outputs[-1], self.folder, error)
        return facts

    def _kept_files(self) -> dict[str, Path]:
        found = [(kept.parent, file) for kept in map(self._kept, self.outputs) for file in _files(kept)]
        return {file.relative_to(folder).as_posix(): file for folder, file in found}

    def _read_record(self) -> dict[str, Any]:
        try:
            record = json.loads(self.record_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) and record.keys() >= {"identity", "outputs", "files", "facts"} else {}

    def _problem(self, record: Mapping[str, Any]) -> str | None:
        """Why the copy cannot be used; None if it is whole and what is asked for."""
        if not record:
            return "cannot be read"
        if record["identity"] != self.identity or len(record["outputs"]) != len(self.outputs):
            return "is of other settings, inputs or another version"
        found = self._kept_files()
        if found.keys() != record["files"].keys() or not all(self._kept(output).exists() for output in self.outputs):
            return "names files that are not there"
        for name, path in found.items():
            if [path.stat().st_size, file_sha256(path)] != record["files"][name]:
                return f"has another size or SHA-256 for {name} than the file"
        return None

    def _remove(self) -> None:
        self.record_path.unlink(missing_ok=True)
        for output in self.outputs:
            kept = self._kept(output)
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    """A file itself, or all files of a folder, hidden ones left out."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in found if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)]


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
