"""What only a GPU shows, in ten minutes: `python -m perf.gpu_checks` in the repository's root.

First the same inputs on the CPU and on the GPU through every stage, then rates beside their goals and floors. All inputs are drawn. Each
finding is printed at once, no failure stops what comes after it, and what no longer fits into the time is left out. `docs/gpu.md` says
what the numbers decide. `--device cpu --tiny` tries the checks themselves without a GPU; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from cdgmae import __version__
from cdgmae.runtime.compute import describe_device
from cdgmae.runtime.environment import driver_version
from perf.gpu import correctness, denoising, rates, trainings
from perf.gpu.findings import CHECKS, FAILED, Bench, Check, Finding, as_table
from perf.gpu.inputs import draw_bags

ROOT = Path(__file__).parents[1]
ORDER = (
    trainings.training_command, correctness.finishing_views, correctness.model_values, correctness.sampling, correctness.scores,
    correctness.masks, rates.environment, rates.steps_of_a3, denoising.sampler_eager, rates.loading, rates.propagation_rate,
    denoising.wide_attention, denoising.denoising_step, trainings.waits, rates.steps_of_a1, denoising.sampler_compiled,
    rates.scoring_rate, rates.attention_kernels,
)  # fmt: skip
"""What matters most comes first: what no longer fits into the time is left out."""


def revision() -> str:
    """The tree's commit, with a mark if files differ from it; the version where git or its folder is not at hand."""
    try:
        answers = [
            subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"
    return answers[0] + (" with changes" if answers[1] else "")


def header(device: str, tiny: bool) -> str:
    """Device, driver, torch and the tree's revision."""
    lines = [
        "# GPU checks", "", f"* device: {describe_device(torch.device(device))}", f"* driver: {driver_version() or 'none'}",
        f"* torch {torch.__version__}, Python {sys.version.split()[0]}", f"* tree: {revision()}",
    ]  # fmt: skip
    if tiny:
        lines.append("* toy sizes, nothing compiled: no rate means anything")
    return "\n".join(lines) + "\n\n"


def draw_bench(device: str, tiny: bool, work: Path) -> Bench:
    """A bench with inputs drawn into a scratch folder."""
    few, many = (8, 32) if tiny else (24, 1024)
    return Bench(device, tiny, work, draw_bags(work / "bags", many), draw_bags(work / "few", few))


def run_check(bench: Bench, one: Check) -> None:
    """Run a check; what it raises becomes a finding."""
    began = time.perf_counter()
    print(f"== {one.name}: {(one.run.__doc__ or '').splitlines()[0]}", flush=True)
    try:
        one.run(bench)
    except Exception:
        bench.report(Finding(f"check {one.name}", FAILED, detail=traceback.format_exc(limit=-8)))
    gc.collect()
    if bench.on_gpu:
        torch.cuda.empty_cache()
    print(f"== {one.name}: {time.perf_counter() - began:.1f} s", flush=True)


def chosen_checks(only: str) -> list[Check]:
    """The checks of these names, separated by commas, or all, in the order in which they run.

    Raises:
        SystemExit: if a name is unknown.
    """
    ordered = [CHECKS[function.__name__] for function in ORDER]
    names = [name for name in only.split(",") if name]
    if unknown := set(names) - set(CHECKS):
        raise SystemExit(f"--only: no check {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    return [one for one in ordered if not names or one.name in names]


def main() -> int:
    """Run the checks; exit code 1 if one of them raised. Which goals are met is in the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="Toy sizes, nothing is compiled.")
    parser.add_argument("--only", default="", help="Names of checks, separated by commas.")
    parser.add_argument(
        "--seconds", type=float, default=550, help="Start no check that would not fit into so many seconds any more."
    )
    parser.add_argument("--output", type=Path, default=Path("gpu_checks.md"), help="Where the table goes.")
    options = parser.parse_args()
    checks, started = chosen_checks(options.only), time.perf_counter()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU; `--device cpu --tiny` tries the checks without one")
    if options.tiny:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    top = header(options.device, options.tiny)
    print(top, flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-checks-") as folder:
        bench = draw_bench(options.device, options.tiny, Path(folder))
        print(f"inputs drawn in {time.perf_counter() - started:.1f} s", flush=True)
        for one in checks:
            if time.perf_counter() - started + one.seconds > options.seconds:
                bench.inform(f"check {one.name}", f"left out, its {one.seconds:.0f} s do not fit")
            else:
                run_check(bench, one)
            options.output.write_text(top + as_table(bench.found), encoding="utf-8")
    print(f"\n{as_table(bench.found)}\nwritten to {options.output}", flush=True)
    return int(any(finding.measured == FAILED for finding in bench.found))


if __name__ == "__main__":
    sys.exit(main())
