"""Part files: the rows of finished clips and, where asked for, their strips, so that a killed job continues with the missing clips only.

A part is found again by content: clip name and files, protocol, encoder weights, and what was written besides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from cdgmae.propagation.benchmarks.benchmark import EvaluationSequence
from cdgmae.storage.files.atomic import write_text
from cdgmae.storage.files.locks import exclusive_writer


class PartFiles:
    """The part files of one job; without a folder nothing is kept."""

    def __init__(
        self, folder: Path | None, rules: str, protocol_digest: str, encoder_digest: str, outputs: Sequence[str]
    ) -> None:
        self.folder = folder
        self._context = [rules, protocol_digest, encoder_digest, *outputs]

    def path(self, clip: EvaluationSequence) -> Path | None:
        """Where the rows of a clip belong; another file once the clip's images or labels have changed."""
        if self.folder is None:
            return None
        stats = [(path.name, (found := path.stat()).st_size, found.st_mtime_ns) for path in clip.files]
        digest = hashlib.sha256(json.dumps([*self._context, clip.name, stats]).encode()).hexdigest()[:16]
        return self.folder / f"{clip.name}.{digest}.json"

    def read(self, clip: EvaluationSequence) -> list[dict[str, Any]] | None:
        """Rows of a finished clip, or None."""
        path = self.path(clip)
        if path is None or not path.is_file():
            return None
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return rows

    def write(self, clip: EvaluationSequence, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a finished clip."""
        path = self.path(clip)
        if path is not None:
            write_text(path, json.dumps(rows))

    def strip_path(self, clip: EvaluationSequence) -> Path:
        """Where the strip of a clip belongs; there must be a folder."""
        path = self.path(clip)
        assert path is not None
        return path.with_suffix(".jpg")

    @contextmanager
    def claim(self, clip: EvaluationSequence) -> Iterator[None]:
        """Hold the right to compute a clip; wait while another process of a shared data set holds it, then look for its part."""
        path = self.path(clip)
        with nullcontext() if path is None else exclusive_writer(path):
            yield

    def remove(self, clips: Iterable[EvaluationSequence]) -> None:
        """Remove the parts and strips of these clips, and the folder if nothing else is in it."""
        if self.folder is None or not self.folder.is_dir():
            return
        for clip in clips:
            path = self.path(clip)
            if path is not None:
                path.unlink(missing_ok=True)
                self.strip_path(clip).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
