"""How long the workflow takes to plan, against an empty workflow: `python benchmarks/dag_startup.py`.

Prints the median of several dry runs of the demo, of an empty Snakefile, and their difference and ratio. The first run of each is
not counted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = 5


def dry_run_seconds(snakefile: Path, folder: Path, *arguments: str) -> float:
    """Median wall-clock seconds of a dry run in an empty working directory."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(snakefile),
        "--directory",
        str(folder),
        "--dry-run",
        "--quiet",
        "all",
    ]
    seconds = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run([*command, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "Snakefile"
        empty.write_text('rule all:\n    output: "nothing.txt"\n    shell: "touch {output}"\n')
        baseline = dry_run_seconds(empty, Path(folder))
        demo = dry_run_seconds(ROOT / "Snakefile", Path(folder), "--configfile", str(ROOT / "config.yaml"))
    print(f"empty workflow {baseline:.2f} s, demo {demo:.2f} s: {demo - baseline:+.2f} s, ratio {demo / baseline:.2f}")


if __name__ == "__main__":
    main()
