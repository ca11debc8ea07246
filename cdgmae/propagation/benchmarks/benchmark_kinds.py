"""The kinds of evaluation sets. A new kind is a file beside this one and a line in each of the two lists below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cdgmae.propagation.benchmarks.benchmark import Benchmark
from cdgmae.propagation.benchmarks.davis import Davis, DavisProtocol
from cdgmae.propagation.benchmarks.jhmdb import Jhmdb, JhmdbProtocol
from cdgmae.propagation.benchmarks.key_points import KeyPointProtocol, KeyPoints
from cdgmae.propagation.benchmarks.spair import Spair, SpairProtocol
from cdgmae.propagation.benchmarks.tap_vid import TapVid, TapVidProtocol
from cdgmae.propagation.benchmarks.vip import Vip, VipProtocol

BENCHMARKS: Mapping[str, Benchmark[Any, Any]] = {
    benchmark.kind: benchmark for benchmark in (Davis(), Vip(), Jhmdb(), Spair(), TapVid(), KeyPoints())
}
"""Kind -> its object."""

EvaluationSet = Annotated[
    DavisProtocol | VipProtocol | JhmdbProtocol | SpairProtocol | TapVidProtocol | KeyPointProtocol, Field(discriminator="kind")
]
"""Settings of an evaluation set of any kind."""


def benchmark_of(kind: str) -> Benchmark[Any, Any]:
    """The object of a kind.

    Raises:
        ValueError: if there is no such kind.
    """
    if kind not in BENCHMARKS:
        raise ValueError(f"kind {kind!r} of evaluation set is unknown; allowed: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[kind]


def kinds_laid_out_as(root: Path) -> list[str]:
    """The kinds whose layout a folder has, as far as its first folders tell."""
    return [kind for kind, benchmark in BENCHMARKS.items() if all((root / part).exists() for part in benchmark.layout)]


def set_label(name: str, kind: str) -> str:
    """A set's name for headings: the data set's where the set is named after its kind, else its own."""
    return benchmark_of(kind).label if name == kind else name


def column_of(name: str, kind: str, measure: str) -> str:
    """The column of a measure in the wide summary: `J&F` of the set named after its kind, `lab J&F` of a set named `lab`."""
    return measure if name == kind else f"{name} {measure}"


def table_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Measure -> value of one encoder on one evaluation set.

    Args:
        rows: All rows of its table.

    Raises:
        ValueError: if the rows are not of exactly one kind, or of an unknown one.
    """
    kinds = {row["kind"] for row in rows}
    if len(kinds) != 1:
        raise ValueError(f"rows of exactly one evaluation set are needed, found kinds {sorted(kinds)}")
    return benchmark_of(kinds.pop()).scores(rows)
