"""The page `docs/what_reruns.md`: what is planned for every lost file and changed key, as `test_plans.py` holds it against Snakemake."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

HEAD = """\
# What is made again

What the next `snakemake` makes again when a result is lost, a key of the configuration is changed, or the files of a data set or an
evaluation set are others: exactly that and what must follow. Every row is asked of Snakemake itself by `tests/workflow/test_plans.py`, which
also wrote this page (`pytest tests/workflow/test_plans.py --write-pages`).

The example has a data set `photos` of two shards; the sources `s_ldm` (drawn by a generator that is trained here), `near` (kind `knn`) and
`far` (kind `random`), all of them scored; the runs `conditioning` (whose encoder the generator and the scores use), `crops`, `cdg` (on `s_ldm`)
and `chosen` (the same with a `view_filter`); the encoders `random`, `crops`, `cdg` and `chosen` on three evaluation sets; and two of the
paper's tables. A number in parentheses counts the jobs of a rule; a single job is named. Of several shards the first stands for all.

What is planned although it was finished before with the same settings and inputs is not computed again: it is put back from `work/finished/`.
Of a drawn source whose `num_views` alone is another, the views drawn before are copied from there: 2 -> 3 draws view 3, 3 -> 2 draws none.

A plan compares the results with the sizes in their records, and small tables that are newer than theirs (manifests, indices, scores) with the sums
there, so a file that was cut short, a table that changed, or a file that is gone from a folder such as `results/report`, is made again like a lost
one; the job's reason says which it is. Another file that changed and kept its size is only seen by its time: the jobs that read it are planned, hold
it against its sum, and stop with the command that deletes it. `cdgmae verify results` reads every byte, and ends with the commands
that delete what is damaged; the row of that file says what the next run makes. A changed image of a data set plans all its shards, since which of
them it belongs to is known when it has been listed; with `assignment: hash` the others come out as they were, and the work on them is put back.

| stage | what happens | what is made again |
|---|---|---|
"""


class Row(NamedTuple):
    """One row: a stage, what happened there, and the jobs that are planned, e.g. `score_views s_ldm 00001`."""

    stage: str
    event: str
    jobs: Iterable[str]


def page(rows: Iterable[Row]) -> str:
    """The whole page."""
    return HEAD + "".join(f"| {row.stage} | {row.event} | {_in_words(row.jobs)} |\n" for row in rows)


def _in_words(jobs: Iterable[str]) -> str:
    of_rule: dict[str, list[str]] = defaultdict(list)
    for job in sorted(jobs):
        of_rule[job.split()[0]].append(job)
    return ", ".join(_of_one_rule(rule, found) for rule, found in of_rule.items()) or "nothing"


def _of_one_rule(rule: str, jobs: list[str]) -> str:
    return f"`{jobs[0]}`" if len(jobs) == 1 else f"`{rule}` ({len(jobs)})"
