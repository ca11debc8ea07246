"""The small study (docs/small_study.md) on CPUs, in the workflow: `python -m perf.study.on_cpus --data FOLDER --work FOLDER`.

It lays out the data below the work folder and asks Snakemake for the results in the order in which they tell something. After each step the
table is written anew from whatever is finished. Stopped at any moment, the same line goes on from there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cdgmae import names
from cdgmae.config import Config, load_config
from cdgmae.workflow import consistency
from perf.study.choice import CONFIG, PLAIN, score_files, write_choice
from perf.study.data import lay_out
from perf.study.results_table import write_results

ROOT = Path(__file__).parents[2]
CHOSEN = Path("chosen.yaml")
FIRST = (["untrained", "crops"], ["s_ldm"], ["consistent"], ["crops_seed1"], ["s_ldm_seed1"], ["consistent_seed1"])
"""Encoders that answer the first questions, in the order in which they are judged."""


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with images/, DAVIS/ and JHMDB/.")
    parser.add_argument("--work", type=Path, default=Path("small_study"), help="Folder of everything that is made.")
    parser.add_argument("--over", type=Path, nargs="*", default=[], help="Files laid over it, e.g. with a section `runtime`.")
    parser.add_argument(
        "--images-per-class", type=int, default=10, help="Images of every class that are trained on; 0: all but one."
    )
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("small_study.md"), help="Where the table goes.")
    return parser.parse_args()


def main() -> int:
    """Run the study; the exit code of the first step that failed."""
    options = parse_options()
    files, output = [file.resolve() for file in (*CONFIG, *options.over)], options.output.resolve()
    data = options.data.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    lay_out(data, Path("data/small_study"), options.images_per_class)
    for targets in steps(config := load_config(*files)):
        code = run_workflow([*files, *([CHOSEN] if CHOSEN.is_file() else [])], options.cores, targets)
        write_results(
            config,
            Path(names.RESULTS),
            output,
            [f"written {time.strftime('%Y-%m-%d %H:%M')}, after {' '.join(targets) or 'everything'}"],
        )
        if code:
            return code
    return 0


def steps(config: Config) -> Iterator[list[str]]:
    """Targets of one call of Snakemake after the other; what is chosen by scores is written as soon as they are there."""
    yield from (_tables(config, encoders) for encoders in FIRST[:2])
    yield consistency.score_tables(config, PLAIN)
    write_choice(config, Path(names.RESULTS), CHOSEN)
    yield from (_tables(config, encoders) for encoders in FIRST[2:])
    yield list(map(str, score_files(config)))
    write_choice(config, Path(names.RESULTS), CHOSEN)
    first = {name for encoders in FIRST for name in encoders}
    yield from (_tables(config, [name]) for name in config.propagation.encoders if name not in first)
    yield []


def _tables(config: Config, encoders: list[str]) -> list[str]:
    return [names.propagation_table(encoder, name) for encoder in encoders for name in config.propagation.datasets]


def run_workflow(files: list[Path], cores: int, targets: list[str]) -> int:
    """One call of Snakemake in the current folder; its exit code."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--cores",
        str(cores),
        "--rerun-incomplete",
    ]
    command += ["--configfile", *map(str, files), "--", *targets]
    found = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return subprocess.run(command, check=False, env=os.environ | {"PATH": found}).returncode


if __name__ == "__main__":
    sys.exit(main())
