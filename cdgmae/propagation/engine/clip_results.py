"""Results of finished clips: their rows and, where asked for, their strips, so that a killed job continues with the missing clips only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdgmae.propagation.benchmarks.benchmark import EvaluationSequence
from cdgmae.storage.journal import Journal, NewRecord, Record
from cdgmae.storage.tables import stats_digest

Rows = list[dict[str, Any]]


class ClipResults:
    """The journal of one job, a slot per clip; without a folder nothing is kept."""

    def __init__(
        self, folder: Path | None, rules: str, protocol_digest: str, encoder_digest: str, outputs: Sequence[str]
    ) -> None:
        identity = json.dumps([rules, protocol_digest, encoder_digest, *outputs])
        self._journal = None if folder is None else Journal(folder, identity, "clips")

    def read(self, clip: EvaluationSequence) -> Rows | None:
        """Rows of a finished clip, or None."""
        record = self._record(clip)
        return None if record is None else record.metadata["rows"]

    def strip(self, clip: EvaluationSequence) -> bytes:
        """The strip of a finished clip."""
        record = self._record(clip)
        if record is None:
            raise ValueError(f"the result of clip {clip.name} is gone from the work folder; run it again")
        return record.data()

    @contextmanager
    def claim(self, clip: EvaluationSequence) -> Iterator[Callable[[Rows, bytes], None]]:
        """Hold the right to compute a clip; gives what keeps its rows and strip.

        Waits while another process of a shared data set holds it: look for its result first.
        """
        if self._journal is None:
            yield lambda _rows, _strip: None
            return
        with self._journal.claim(self._slot(self._journal, clip)) as journal:
            yield lambda rows, strip: journal.append([NewRecord(clip.name, {"rows": rows}, strip)])

    def remove(self, clips: Iterable[EvaluationSequence]) -> None:
        """Remove the results of these clips, and the folder if nothing else is in it."""
        if self._journal is None or not self._journal.folder.is_dir():
            return
        for clip in clips:
            self._journal.remove(self._slot(self._journal, clip))
        if not any(self._journal.folder.iterdir()):
            self._journal.folder.rmdir()

    def _slot(self, journal: Journal, clip: EvaluationSequence) -> str:
        """Another one once the clip's images or labels, or what is done with them, have changed."""
        digest = hashlib.sha256((journal.identity + stats_digest(clip.files)).encode()).hexdigest()[:16]
        return f"{clip.name}.{digest}"

    def _record(self, clip: EvaluationSequence) -> Record | None:
        return None if self._journal is None else self._journal.records(self._slot(self._journal, clip)).get(clip.name)
