"""The study's result as a page: every encoder with intervals, the differences that were asked for, and the consistency of every source."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from cdgmae.config import Config
from cdgmae.consistency.consistency_summary import describe_sources
from cdgmae.names import RESULTS
from cdgmae.paper import PAPER_TABLES
from cdgmae.propagation.benchmarks.benchmark import Row
from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of
from cdgmae.propagation.measures.encoder_summary import read_rows
from cdgmae.propagation.measures.intervals import Interval, Tables, resample
from cdgmae.propagation.output.encoder_comparison import OF_SEED
from cdgmae.workflow.consistency import score_tables
from perf.study.choice import CANDIDATES, candidates, guidance_distances, nearest_scale, score_files

UNTRAINED = "untrained"
METRICS = ("gs", "ls", "nps")


QUESTIONS = {
    "Do generated views teach more than crops?": [
        ("s_ldm", "crops"),
        ("s_ldm_a3", "crops"),
        ("s_ldm_shared", "crops"),
        ("knn", "crops"),
        ("random", "crops"),
    ],
    "Do two images teach more than one?": [("s_ldm", "mae"), ("s_ldm_shared", "mae"), ("crops", "mae")],
    "Does one crop for all views help?": [("s_ldm_shared", "s_ldm"), ("s_ldm_shared", "same_crop"), ("same_crop", "crops")],
    "Does training help at all?": [("crops", "untrained"), ("s_ldm", "untrained"), ("mae", "untrained")],
    "Do views help that were chosen by their consistency?": [("consistent", "s_ldm"), ("weighted", "s_ldm")],
    "Does a guidance scale help that was chosen by distance to video?": [("guided", "s_ldm")],
    "Do crops and views together teach more than either?": [("mixed", "s_ldm"), ("mixed", "crops")],
    "Which view should be the target?": [("s_ldm", "target_real"), ("s_ldm", "target_generated")],
    "Do three anchors teach more than one?": [("s_ldm_a3", "s_ldm")],
}
"""What the study asks -> pairs of encoders, first less second."""


def write_results(config: Config, results: Path, output: Path, notes: list[str]) -> None:
    """Write the page from whatever is finished.

    Args:
        config: The study's configuration.
        results: Folder with `propagation/`, `consistency/` and `pretrain/`.
        output: Markdown file.
        notes: Lines on how it was made.
    """
    tables = _measured(config, results / "propagation")
    wanted = len(config.propagation.encoders) * len(config.propagation.datasets)
    found = sum(len(seeds) for sets in tables.values() for seeds in sets.values())
    if found < wanted:
        notes = [*notes, f"**partial: {found} of {wanted} tables of scores are there**"]
    lines = [
        "# Small study", "", *(f"* {note}" for note in notes), "",
        "Percent. Intervals are 95 % bootstrap intervals over the sequences of a set, of the mean over seeds; they do not speak of training again "
        "with other seeds, whose scores stand beside them. Differences are paired: the same drawn sequences and the same seeds for both.", "",
        "## Encoders", "", *_encoder_rows(config, tables), "", "## Differences", "", *_difference_rows(config, tables), "",
        "## View sources", "", *_source_rows(config, results),
    ]  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


Measured = dict[str, dict[str, dict[int, Sequence[Row]]]]
"""Encoder -> evaluation set -> seed -> table."""


def _measured(config: Config, results: Path) -> Measured:
    """What is finished, under the names of the configuration's encoders without seeds."""
    measured: Measured = {}
    for name, encoder in config.propagation.encoders.items():
        for set_name in config.propagation.datasets:
            if (path := results / name / f"{set_name}.parquet").is_file():
                base = OF_SEED.sub("", name)
                measured.setdefault(base, {}).setdefault(set_name, {})[encoder.seed] = read_rows(path)
    return measured


def _encoder_rows(config: Config, tables: Measured) -> list[str]:
    rows = ["| encoder | set | measure | mean | 95 % interval | seeds | of each seed |", "|---|---|---|---|---|---|---|"]
    for set_name, settings in config.propagation.datasets.items():
        for name in (name for name in tables if set_name in tables[name]):
            seeds = tables[name][set_name]
            found, single = resample(list(seeds.values())).intervals(), [resample([table]).values for table in seeds.values()]
            rows += [
                f"| {name} | {set_name} | {measure.name} | {found[measure.name].value:.2f} | {_bounds(found[measure.name])} "
                f"| {', '.join(map(str, seeds))} | {', '.join(f'{each[measure.name]:.2f}' for each in single)} |"
                for measure in benchmark_of(settings.kind).measures
                if measure.shown
            ]
    return rows


def _difference_rows(config: Config, tables: Measured) -> list[str]:
    """Paired differences of the headline measures; an encoder without seeds is compared with every seed."""
    rows = [
        "| question | difference | set | measure | mean | 95 % interval | of each seed | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for question, pairs in QUESTIONS.items():
        asked = question
        for (first, second), set_name in itertools.product(pairs, config.propagation.datasets):
            ours, others = (tables.get(name, {}).get(set_name, {}) for name in (first, second))
            seeds = [seed for seed in ours if seed in others or second == UNTRAINED]
            if not seeds:
                continue
            pairs_of_seeds = [(ours[seed], others[0 if second == UNTRAINED else seed]) for seed in seeds]
            measure = benchmark_of(config.propagation.datasets[set_name].kind).headline.name
            less = _difference([pair[0] for pair in pairs_of_seeds], [pair[1] for pair in pairs_of_seeds], measure)
            each = [_difference([one], [other], measure).value for one, other in pairs_of_seeds]
            rows.append(
                f"| {asked} | {first} - {second} | {set_name} | {measure} | {less.value:+.2f} | {_bounds(less)} "
                f"| {', '.join(f'{value:+.2f}' for value in each)} | {_verdict(less, each)} |"
            )
            asked = ""
    return rows


def _difference(ours: Tables, others: Tables, measure: str) -> Interval:
    return resample(ours).differences(resample(others))[measure]


def _verdict(less: Interval, each: list[float]) -> str:
    """A difference counts where neither other sequences nor the other seed would undo it."""
    if not less.excludes_zero:
        return "noise"
    if len(each) < 2:
        return "one seed"
    return "holds" if min(each) * max(each) > 0 else "seeds disagree"


def _source_rows(config: Config, results: Path) -> list[str]:
    """Means of every scored source with their intervals beside the paper's Table 1, both orders, and what the guidance scales give."""
    files = {
        source: [results / Path(path).relative_to(RESULTS) for path in score_tables(config, source)]
        for source in config.consistency.sources
    }
    scored = [path for paths in files.values() if all(path.is_file() for path in paths) for path in paths]
    if not scored:
        return ["No source is scored yet."]
    paper = {row.kind: row for row in PAPER_TABLES["table1"].rows.values()}
    rows = ["| source | pairs | GS | LS | NPS | distance to video | paper's GS, LS, NPS |", "|---|---|---|---|---|---|---|"]
    sources = [row for row in describe_sources(scored) if row.get("nps_mean") is not None]
    for row in sources:
        cells = [
            f"{row[f'{name}_mean']:.3f} {_bounds(Interval(0, row[f'{name}_low'], row[f'{name}_high']), 3)}" for name in METRICS
        ]
        in_paper = row["kind"] in paper and not row["source"].startswith(CANDIDATES)
        printed = ", ".join(f"{paper[row['kind']].value(name):.3f}" for name in METRICS) if in_paper else ""
        distance = "" if row.get("distance") is None else f"{row['distance']:.3f}"
        rows.append(f"| {row['source']} | {row['pairs']} | {' | '.join(cells)} | {distance} | {printed} |")
    compared = sorted((row for row in sources if row["source"] in paper), key=lambda row: -row["nps_mean"])
    order = " > ".join(row["source"] for row in compared)
    printed_order = " > ".join(str(kind) for kind in sorted(paper, key=lambda kind: -(paper[kind].value("nps") or 0)))
    rows += [
        "",
        f"Order in NPS: {order}; the paper's: {printed_order}. The scale is that of the scoring encoder, so only the order compares.",
    ]
    if len(candidates(config)) > 1 and all(path.is_file() for path in score_files(config, results)):
        tried = ", ".join(f"{scale:g}: {distance:.3f}" for scale, distance in sorted(guidance_distances(config, results).items()))
        rows += ["", f"Guidance scale and distance to video: {tried}; chosen for `guided`: {nearest_scale(config, results):g}."]
    return rows


def _bounds(interval: Interval, digits: int = 2) -> str:
    low, high = interval.low, interval.high
    return "" if low is None or math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"
