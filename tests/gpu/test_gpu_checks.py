"""The GPU checks themselves, without a GPU: all of them at toy size, and what their table says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from perf.gpu.findings import CORRECT, FAILED, Bench, Check, Finding, as_table
from perf.gpu_checks import CHECKS, ORDER, chosen_checks, run_check
from tests.warm_start import warm_programs

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_checks_run_at_toy_size(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    command = [
        str(warm_programs() / "gpu_checks"), "--device", "cpu", "--tiny", "--seconds", "100000", "--output", str(table),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    text = table.read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert FAILED not in text
    assert "left out" not in text
    for said in (
        "* device: the CPU",
        "* driver: ",
        "* torch ",
        "* tree: ",
        "* toy sizes",
        "| what | measured | goal | floor | met |",
    ):
        assert said in text
    begun = [line.removeprefix("== ").split(":")[0] for line in done.stdout.splitlines() if line.startswith("== ")]
    assert list(dict.fromkeys(begun)) == [function.__name__ for function in ORDER]
    trainings = [line for line in text.splitlines() if line.startswith("| training")]
    assert len(trainings) == 10
    assert all(line.endswith("| yes |") for line in trainings), "\n".join(trainings)


def test_every_check_has_its_place_in_the_order() -> None:
    assert sorted(function.__name__ for function in ORDER) == sorted(CHECKS)
    assert [check.name for check in chosen_checks("masks,model_values")] == ["model_values", "masks"]
    with pytest.raises(SystemExit, match="no check nonsense"):
        chosen_checks("masks,nonsense")


def test_a_check_that_raises_is_a_row_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(bench: Bench) -> None:
        """Breaks."""
        bench.within("before", 1.0, 2.0)
        raise RuntimeError("the device fell off")

    bench = Bench("cpu", True, tmp_path, tmp_path, tmp_path)
    run_check(bench, Check("broken", CORRECT, 1, broken))
    assert [(finding.what, finding.met) for finding in bench.found] == [("before", True), ("check broken", False)]
    assert "the device fell off" in as_table(bench.found)
    assert "check broken: FAILED" in capsys.readouterr().out


def test_the_table_says_which_goals_are_met() -> None:
    rows = [
        Finding("slow", 3.0, "ms", goal=2.0, floor=1.0),
        Finding("fast", 5.0, "samples/s", goal=4.0, better="higher", detail="a kernel"),
        Finding("exit", 85.0, goal=85.0, better="equal"),
        Finding("fact", "a word"),
    ]
    lines = as_table(rows).splitlines()
    assert lines[2:6] == [
        "| slow | 3 ms | 2 ms | 1 ms | **no** |",
        "| fast | 5 samples/s | 4 samples/s |  | yes |",
        "| exit | 85 | 85 |  | yes |",
        "| fact | a word |  |  |  |",
    ]
    assert "* fast:" in lines
    assert Finding("exit", 0.0, goal=85.0, better="equal").met is False
