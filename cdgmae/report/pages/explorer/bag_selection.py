"""Which bags the explorer shows: chosen by stated rules from all score tables, one table in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.consistency.bag_scores import bag_means
from cdgmae.consistency.score_tables import COMPARED
from cdgmae.runtime.seeds import integer_seed

SAMPLE_SIZE = 6000
"""Bags of all sources together that the distributions are drawn from."""

STREAM = "report/consistency"

RULES = {
    "lowest": "lowest NPS",
    "highest": "highest NPS",
    "disagree": "scores disagree",
    "random": "random",
    "patches": "patches stored",
}
"""Rule -> its name on the page. Of each source, `lowest` and `highest` take the bags with the extreme NPS, `disagree` those with the largest
difference between two of GS, LS and NPS (each in standard deviations from the source's mean), `random` those with the smallest draws, which
are the same keys in every source, and
`patches` the smallest draws among bags with stored nearest patches that no other rule has taken. Equal bags are taken in order of keys."""

Order = list[tuple[str, str]]

ORDERS: dict[str, Order] = {
    "lowest": [("nps", "ascending"), ("key", "ascending")],
    "highest": [("nps", "descending"), ("key", "ascending")],
    "disagree": [("disagreement", "descending"), ("key", "ascending")],
    "random": [("draw", "ascending"), ("key", "ascending")],
    "patches": [("draw", "ascending"), ("key", "ascending")],
}


@dataclass(frozen=True, slots=True)
class ChosenBag:
    """One bag to be shown.

    Attributes:
        source: View source.
        key: Key of the bag.
        table: Its score table.
        rules: The rules that chose it, of `RULES`.
        scores: Means of gs, ls and nps over the scored pairs, and `disagreement`.
    """

    source: str
    key: str
    table: Path
    rules: list[str]
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """What was chosen of one source.

    Attributes:
        source: View source.
        num_bags: Bags with at least one scored pair.
        sample: Key, class and means of gs, ls and nps of the sampled bags, lowest draw first.
        bags: The chosen bags; those that each rule puts first come first.
    """

    source: str
    num_bags: int
    sample: dict[str, list[Any]]
    bags: list[ChosenBag]


def choose_source(tables: Sequence[Path], summary: dict[str, Any], quota: int, sample_size: int) -> SourceChoice | None:
    """Choose bags of one source.

    Args:
        tables: Score tables of the source.
        summary: The source's row of the consistency summary, whose means and deviations the disagreement is counted in.
        quota: Bags that each rule takes at most.
        sample_size: Bags drawn for the distributions.

    Returns:
        The choice, or None if the source has no score table or no scored pair.
    """
    source = str(summary["source"])
    sizes = dict.fromkeys(RULES, quota) | {"random": max(quota, sample_size), "patches": quota * len(RULES)}
    selected: dict[str, pa.Table] = {}
    num_bags = 0
    for number, path in enumerate(tables):
        bags = described_bags(path, summary)
        bags = bags.append_column("table", pa.array(np.full(bags.num_rows, number)))
        num_bags += bags.num_rows
        for rule, size in sizes.items():
            part = bags.filter(bags["has_patches"]) if rule == "patches" else bags
            selected[rule] = _first(pa.concat_tables([selected[rule], part]) if rule in selected else part, ORDERS[rule], size)
    if not num_bags:
        return None
    sample = {name: selected["random"][name].slice(0, sample_size).to_pylist() for name in ("key", "class_name", *COMPARED)}
    return SourceChoice(source, num_bags, sample, _join_rules(source, tables, selected, quota))


def described_bags(path: Path, summary: dict[str, Any]) -> pa.Table:
    """The bags of a score table with what the rules look at.

    Args:
        path: Score table.
        summary: Its source's row of the consistency summary.

    Returns:
        `key`, `class_name`, the means `gs`, `ls` and `nps`, `has_patches`, `disagreement` in standard deviations, and `draw`, a random
        number that is a function of the key alone: the random bags of all sources are those of the same real images.
    """
    means = bag_means(path)
    spread = _disagreement({metric: means[metric].to_numpy() for metric in COMPARED}, summary)
    draws = pd.util.hash_array(means["key"].to_numpy(), hash_key=f"{integer_seed(0, STREAM, 'bags'):016x}", categorize=False)
    return means.append_column("disagreement", pa.array(spread)).append_column("draw", pa.array(draws))


def _disagreement(scores: dict[str, npt.NDArray[np.float64]], summary: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Largest minus smallest of the scores, each counted in standard deviations from its source's mean."""
    deviations = [(values - summary[f"{metric}_mean"]) / (summary[f"{metric}_std"] or 1.0) for metric, values in scores.items()]
    spread: npt.NDArray[np.float64] = np.max(deviations, axis=0) - np.min(deviations, axis=0)
    return spread


def _first(bags: pa.Table, order: Order, count: int) -> pa.Table:
    return bags.take(pc.select_k_unstable(bags, min(count, bags.num_rows), sort_keys=order)) if bags.num_rows else bags


def _join_rules(source: str, tables: Sequence[Path], selected: dict[str, pa.Table], quota: int) -> list[ChosenBag]:
    """Every bag once with all rules that chose it, in turns: what each rule puts first, what each puts second, and so on."""
    taken: dict[str, list[dict[str, Any]]] = {
        rule: bags.slice(0, quota).to_pylist() for rule, bags in selected.items() if rule != "patches"
    }
    known = {row["key"] for rows in taken.values() for row in rows}
    taken["patches"] = [row for row in selected["patches"].to_pylist() if row["key"] not in known][:quota]
    bags: dict[str, ChosenBag] = {}
    for place in range(quota):
        for rule, rows in taken.items():
            if place < len(rows):
                row = rows[place]
                scores = {name: row[name] for name in (*COMPARED, "disagreement")}
                bag = bags.setdefault(row["key"], ChosenBag(source, row["key"], tables[row["table"]], [], scores))
                bag.rules.append(rule)
    for bag in bags.values():
        bag.rules.sort(key=list(RULES).index)
    return list(bags.values())
