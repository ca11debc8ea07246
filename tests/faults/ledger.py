"""What the drills count, and the table that `make drills` makes of it: `python -m tests.faults.ledger LINES.jsonl faults.md`."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path

VARIABLE = "CDGMAE_DRILLS"
"""Names the file that the long set appends its counts to; without it the short set runs."""

HEAD = """# Fault drills

What was done to the stages on purpose, and what became of it; `make drills` repeats it, the seeds are fixed, and `make test` runs a short
set of the same drills (`tests/faults/`). *Survived* means: the same command again, or the mend that its message names, ended with the bytes
of an undisturbed run (faults of machines), or the input ended as a result, as a row with a reason or in a message that says what to do
(damaged and hostile inputs). *Lost*: a result that is missing, damaged or another one; rows of a training's own metrics, whose file was damaged,
are given up with a warning and do not count. *Doubled*: kept work that was made again. *Silent*: damage that was used without a word.
*Traceback*: an error in a program's words, a crash, a hang of a minute or memory beyond the bound.
"""


@dataclass
class Count:
    """How often a fault was injected into a stage, and how it ended."""

    injected: int = 0
    survived: int = 0
    lost: int = 0
    doubled: int = 0
    silent: int = 0
    traceback: int = 0

    @property
    def all_survived(self) -> bool:
        """Whether faults were injected, all of them were survived, and nothing went wrong on the way."""
        return self.injected > 0 and self == Count(self.injected, self.injected)


def is_long() -> bool:
    """Whether the long set was asked for."""
    return VARIABLE in os.environ


def sample(short: int, long: int) -> int:
    """How many injections a drill makes."""
    return long if is_long() else short


def recorded(stage: str, fault: str, count: Count) -> Count:
    """The same count, put into the table if one is made; a test holds it against `all_survived`."""
    if file := os.environ.get(VARIABLE):
        with Path(file).open("a") as lines:
            lines.write(json.dumps({"stage": stage, "fault": fault, **asdict(count)}) + "\n")
    return count


def table(lines: list[dict[str, object]]) -> str:
    """All counts as Markdown: a row per stage and fault, and their sums per fault."""
    names = [field.name for field in fields(Count)]
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * len(names))
    rows = []
    for line in lines:
        counts = [int(str(line[name])) for name in names]
        rows.append([str(line["stage"]), str(line["fault"]), *map(str, counts)])
        for key in (str(line["fault"]), "all together"):
            sums[key] = [one + more for one, more in zip(sums[key], counts, strict=True)]
    total = sums.pop("all together")
    summary = [[fault, *map(str, counts)] for fault, counts in sums.items()] + [
        ["**all together**", *(f"**{n:,}**" for n in total)]
    ]
    return "\n".join(
        [
            HEAD,
            "## By fault\n",
            _markdown(["fault", *names], summary),
            "\n## By stage and fault\n",
            _markdown(["stage", "fault", *names], rows),
            "",
        ]
    )


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    texts = [name for name in ("stage", "fault") if name in head]
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in [head, ["---"] * len(texts) + ["---:"] * (len(head) - len(texts)), *rows]
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(table([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]))
