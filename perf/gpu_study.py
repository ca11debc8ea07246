"""The small study (docs/small_study.md) in at most nine minutes of one GPU, without Snakemake or network: `python -m perf.gpu_study --data FILE`.

It runs the same stage commands as the workflow, several side by side, until the time is over. What no longer fits is left out and said; what is
finished is kept in the work folder, so that another call goes on. The table is written in any case. `--device cpu --tiny` tries the script
itself on drawn images; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cdgmae.config import Config
from cdgmae.settings.runtime import RuntimeSettings
from perf.study.bundle import open_bundle, write_bundle
from perf.study.data import lay_out
from perf.study.jobs import study_jobs, summary_job
from perf.study.results_table import write_results
from perf.study.scale import draw_tiny_data, study_config
from perf.study.side_by_side import GRACE_SECONDS, Outcome, preload, run_jobs

ROOT = Path(__file__).parents[1]
FOR_THE_TABLE = 15.0
"""Seconds kept for the summary of the scores and the table, besides what jobs take to stop."""

CORES_PER_JOB = 3
DESCRIBE = "import torch; from cdgmae.runtime.compute import describe_device; print(describe_device(torch.device({!r})))"


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="Folder with images/, DAVIS/ and JHMDB/, or the file that --bundle wrote of it."
    )
    parser.add_argument("--config", type=Path, default=ROOT / "workflow/experiments/small_study.yaml")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="Toy sizes and, without --data, drawn images and clips.")
    parser.add_argument("--seconds", type=float, default=530, help="Time budget, from start to table.")
    parser.add_argument("--slots", type=int, help=f"Jobs side by side; one per {CORES_PER_JOB} cores if left out.")
    parser.add_argument("--work", type=Path, default=Path("small_study"), help="Folder of everything that is kept.")
    parser.add_argument("--output", type=Path, default=Path("small_study.md"), help="Where the table goes.")
    parser.add_argument(
        "--table-only", action="store_true", help="Only write the table of what --work/results holds, e.g. by Snakemake."
    )
    parser.add_argument("--bundle", type=Path, metavar="FILE", help="Only write --data into one .tar.xz to bring along.")
    parser.add_argument("--megabytes", type=float, default=60, help="Largest size of the bundle.")
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> Config:
    """Go into the work folder and have data and configuration there.

    Raises:
        SystemExit: if the folder holds another study.
    """
    if options.data is None and not options.tiny:
        raise SystemExit("--data is needed: a folder with images/, DAVIS/ and JHMDB/, or the file that --bundle wrote of it")
    data, file = options.data and options.data.resolve(), options.config.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    if data is None:
        data = Path("data").resolve()
        draw_tiny_data(data)
    elif data.is_file():
        data = open_bundle(data, Path("data")).resolve()
    lay_out(data, laid := Path("laid_out").resolve(), per_class=0)
    config = study_config(file, laid, on_gpu=options.device == "cuda", tiny=options.tiny)
    identity, note = config.canonical_json(), Path("study.json")
    if note.is_file() and note.read_text(encoding="utf-8") != identity:
        raise SystemExit(f"{options.work} holds a study with other settings or data; give another --work, or delete it")
    note.write_text(identity, encoding="utf-8")
    return config


def run_study(config: Config, options: argparse.Namespace, started: float) -> Outcome:
    """Run all jobs within the budget, then the summary of the scores."""
    cores = len(os.sched_getaffinity(0))
    slots = options.slots or max(1, cores // CORES_PER_JOB)
    threads = 1 if options.tiny else max(1, cores // slots)
    runtime = RuntimeSettings(
        device=options.device, threads=threads, loader_workers=threads if options.device == "cuda" else 0, trackers=[],
        log_interval_seconds=10.0, checkpoint_interval_seconds=60.0,
    )  # fmt: skip
    os.environ |= runtime.environment() | {"OMP_NUM_THREADS": str(threads)}
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = (
        "1"  # asks the driver and leaves the GPU unopened until a forked process opens it
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    preload()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    say(f"{slots} jobs side by side, {threads} thread(s) each")
    deadline = started + options.seconds - GRACE_SECONDS - FOR_THE_TABLE
    outcome = run_jobs(study_jobs(config), slots, deadline, say)
    summary = summary_job(config)
    for path in summary.outputs:
        Path(path).unlink(missing_ok=True)  # of an earlier call, which may have scored less
    if summary.inputs:
        outcome.failed |= run_jobs([summary], 1, started + options.seconds, say).failed
    return outcome


def notes_on(options: argparse.Namespace, config: Config, outcome: Outcome, started: float) -> list[str]:
    """What stands above the table."""
    command = [sys.executable, "-c", DESCRIBE.format(options.device)]
    device = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or options.device
    notes = [f"device: {device}", f"{time.monotonic() - started:.0f} s in this call", f"configuration {config.digest()}"]
    if options.tiny:
        notes.append("**toy sizes: these numbers mean nothing**")
    if outcome.left_out:
        notes.append(f"left out for want of time or of what they read ({len(outcome.left_out)}): {', '.join(outcome.left_out)}")
    return notes + [f"FAILED: {name}" for name in outcome.failed]


def main() -> int:
    """Run the study; exit code 1 if a job failed."""
    started, options = time.monotonic(), parse_options()
    if options.bundle is not None:
        if options.data is None:
            raise SystemExit("--bundle needs --data, the folder that it is made of")
        print(write_bundle(options.data, options.bundle, int(options.megabytes * 1e6)))
        return 0
    output = options.output.resolve()
    if options.table_only:
        config = study_config(options.config, Path("data/small_study"), on_gpu=False, tiny=options.tiny)
        write_results(config, options.work / "results", output, ["from the results of a run of the workflow"])
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; what is finished is kept"))
    config = prepare(options)
    outcome = run_study(config, options, started)
    for name, log in outcome.failed.items():
        print(f"\n{name} FAILED; the end of its log:\n{log}", flush=True)
    write_results(config, Path("results"), output, notes_on(options, config, outcome, started))
    print(f"\n{output.read_text(encoding='utf-8')}\nwritten to {output}", flush=True)
    return int(bool(outcome.failed))


if __name__ == "__main__":
    sys.exit(main())
