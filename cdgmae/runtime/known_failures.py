"""Failures that would come again: within one run of the workflow, a command that failed so is not computed a second time.

Snakemake submits a failed job again whatever the reason (`retries` of the profile): right for a lost node or too little memory, wrong for a
typing error. So a command that fails for a reason which does not pass leaves a note below `work/failed/`, under the run's name, which
the Snakefile puts into its environment; the same command of the same run reads it first, and ends at once with the same words.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cdgmae.runtime.interrupts import TransientProblem
from cdgmae.settings.runtime import RUN_VARIABLE, RUNTIME_VARIABLE

FOLDER = Path("work/failed")


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """How a command ended.

    Attributes:
        code: Its exit code.
        message: What it said.
    """

    code: int
    message: str


def recall_failure(arguments: Sequence[str]) -> KnownFailure | None:
    """How this command failed before in this run of the workflow; None if it did not, or no workflow runs it.

    Args:
        arguments: The command line without the program's name.
    """
    note = _note(arguments)
    try:
        return None if note is None else KnownFailure(**json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember_failure(arguments: Sequence[str], failure: KnownFailure, error: BaseException) -> None:
    """Leave a note of a failure that would come again; without effect for other reasons and outside a workflow."""
    note = _note(arguments)
    if note is None or may_pass(error):
        return
    from cdgmae.storage.files.atomic import write_text

    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, json.dumps(asdict(failure)))
    except OSError:
        return  # a folder that cannot be written costs no more than another try


def may_pass(error: BaseException) -> bool:
    """Whether another try may succeed: whatever the operating system refused, and what is known to pass."""
    return any(isinstance(cause, OSError | TransientProblem) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _note(arguments: Sequence[str]) -> Path | None:
    run = os.environ.get(RUN_VARIABLE)
    if run is None or not run.isalnum() or arguments[:1] == ["cluster"]:  # the launcher: what it starts leaves its own note
        return None
    command = json.dumps([list(arguments), os.environ.get(RUNTIME_VARIABLE)])
    return FOLDER / run / f"{hashlib.sha256(command.encode()).hexdigest()[:24]}.json"
