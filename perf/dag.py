"""What planning the workflow costs: `python perf/dag.py [--shards 128 1282 10000] [--runs 3]`.

Dry runs of the demo, beside an empty workflow, and of the paper's configuration (all stages) at several numbers of shards, each beside a bare
workflow of one job per shard: three rules per shard and a gathering one, constant strings only, which is the least that Snakemake can do. Prints
the number of jobs, seconds of the clock and of the CPU (the clock also counts what else the machine does) and the peak memory, and the ratio of
CPU seconds to the bare workflow's. Medians; the workflows take turns. Last, what a plan of finished results adds: comparing them with the sizes
in their records.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

from cdgmae import names
from cdgmae.config import load_config
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS
from cdgmae.workflow.damage import damaged_results

ROOT = Path(__file__).parents[1]

BARE = """
SHARDS = [f"{{index:05d}}" for index in range({shards})]
rule all:
    input: "all.txt"
rule gather:
    input: expand("scores/{{shard}}.txt", shard=SHARDS)
    output: "all.txt"
    shell: "cat {{input}} > {{output}}"
rule score:
    input: "views/{{shard}}.txt"
    output: "scores/{{shard}}.txt"
    shell: "cp {{input}} {{output}}"
rule sample:
    input: "shards/{{shard}}.txt"
    output: "views/{{shard}}.txt"
    shell: "cp {{input}} {{output}}"
rule pack:
    output: "shards/{{shard}}.txt"
    shell: "touch {{output}}"
"""


class Cost(NamedTuple):
    """One dry run: seconds of the clock, seconds of the CPU, peak memory in MB, jobs."""

    clock: float
    cpu: float
    megabytes: float
    jobs: float


def dry_run(snakefile: Path, folder: Path, *arguments: str) -> Cost:
    """Plan a workflow in `folder`, where nothing has been made yet.

    Raises:
        RuntimeError: if it cannot be planned.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(folder), "--dry-run"]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([*command, "--quiet", "rules", "host", *arguments], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        output.seek(0)
        words = output.read().decode()
    if status:
        raise RuntimeError(words[-3000:])
    jobs = int(re.findall(r"^total +(\d+)", words, re.MULTILINE)[-1])
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, jobs)


def paper_config(folder: Path, shards: int) -> Path:
    """The paper's configuration with another number of shards, and the data folders that it names, with an empty image for every shard."""
    config = yaml.safe_load((ROOT / "workflow/experiments/paper.yaml").read_text())
    config["shards"]["datasets"]["imagenet"]["num_shards"] = shards
    paths = [config["shards"]["datasets"]["imagenet"]["path"], config["views"]["generators"]["gen_sis"]["path"]]
    for name, dataset in config["propagation"]["datasets"].items():
        paths += [f"{dataset['root']}/{part}" for part in BENCHMARKS[dataset.get("kind", name)].layout]
    for path in paths:
        (folder / path).mkdir(parents=True, exist_ok=True)
    for number in range(max(shards, 128)):
        (folder / paths[0] / f"{number}.jpg").touch()
    file = folder / f"paper_{shards}.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def compare(folder: Path, shards: int, configs: list[Path], runs: int) -> None:
    """Print a row of the table for each configuration, and one for the bare workflow."""
    bare = folder / f"bare_{shards}.smk"
    bare.write_text(BARE.format(shards=shards))
    found: dict[str, list[Cost]] = {name: [] for name in [*(config.stem for config in configs), "bare"]}
    for _ in range(runs):
        for config in configs:
            found[config.stem].append(dry_run(ROOT / "Snakefile", folder, "--configfile", str(config)))
        found["bare"].append(dry_run(bare, folder))
    costs = {name: Cost(*(statistics.median(values) for values in zip(*each, strict=True))) for name, each in found.items()}
    for name, cost in costs.items():
        print(
            f"| {name} | {shards} | {cost.jobs:.0f} | {cost.clock:.1f} | {cost.cpu:.2f} | {cost.megabytes:.0f} "
            f"| {cost.cpu / costs['bare'].cpu:.2f} |",
            flush=True,
        )


def compare_with_records(folder: Path, shards: int) -> None:
    """Print the CPU seconds of the comparison for shards, views and scores that are all there, and that were all copied after their records."""
    config = load_config(paper_config(folder, shards))
    record = json.dumps({"files": {}, "metadata": {"command": ["x"] * 20}})
    stages = (names.shards_dir("imagenet"), names.views_dir("s_ldm"), names.consistency_dir("s_ldm"))
    for stage in stages:
        (folder / stage).mkdir(parents=True)
        for file in names.shard_files(stage, shards):
            (folder / file).touch()
        for shard in names.shard_names(shards):
            (folder / stage / f".{shard}{names.RECORD_SUFFIX}").write_text(record)
    os.chdir(folder)
    for event in ("as written", "copied"):
        started = time.process_time()
        damaged_results(config)
        print(f"| {shards} shards compared with their records, {event} | {time.process_time() - started:.2f} CPU s |", flush=True)
        for file in (file for stage in stages for file in names.shard_files(stage, shards)):
            os.utime(file)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="*", default=[128, 1282, 10_000])
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    print("| configuration | shards | jobs | s | CPU s | MB | CPU ratio to bare |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare(folder, 0, [ROOT / "config.yaml"], chosen.runs)
        for shards in chosen.shards:
            compare(folder, shards, [paper_config(folder, shards)], chosen.runs)
        compare_with_records(folder, max(chosen.shards, default=128))


if __name__ == "__main__":
    main()
