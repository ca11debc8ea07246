"""A failure that would come again is computed once in a run of the workflow; one that may pass is tried again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdgmae import cli
from cdgmae.config import check_config
from cdgmae.runtime.interrupts import EXIT_OUT_OF_MEMORY, OutOfDeviceMemory, TransientProblem
from cdgmae.runtime.known_failures import FOLDER, may_pass
from cdgmae.settings.runtime import RUN_VARIABLE
from cdgmae.workflow.environment import export_environment
from tests.settings.test_config import DEMO

BAD = "seed: none\n"


def check(folder: Path, run: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != RUN_VARIABLE}
    command = [sys.executable, "-m", "cdgmae", "config", "check", "--config", "config.yaml"]
    return subprocess.run(
        command, cwd=folder, env=environment | ({RUN_VARIABLE: run} if run else {}), capture_output=True, text=True, check=False
    )


def test_a_retry_of_the_same_run_ends_at_once_with_the_same_words(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(BAD)
    by_hand = check(tmp_path, None)
    assert not (tmp_path / FOLDER).exists()
    first = check(tmp_path, "abc1")
    assert (by_hand.returncode, first.returncode) == (1, 1)
    assert "error: " in first.stderr
    file.write_text(json.dumps(DEMO))  # mended, but this run has given up on the command
    again, anew = check(tmp_path, "abc1"), check(tmp_path, "abc2")
    assert again.returncode == 1
    assert first.stderr[first.stderr.index("error: ") :].strip() in again.stderr
    assert "is not tried again: mend it, then start anew" in again.stderr
    assert anew.returncode == 0


def raised_from(error: Exception, cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception:
            raise error from None
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ValueError("unknown key"), False),
        (raised_from(ValueError("not JSON"), json.JSONDecodeError("x", "y", 0)), False),
        (OutOfDeviceMemory("too small"), False),
        (TransientProblem("a process was killed"), True),
        (OSError(28, "No space left on device"), True),
        (raised_from(ValueError("cannot be written: disk full"), OSError(28, "No space left on device")), True),
    ],
)
def test_what_the_operating_system_or_a_node_refused_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], tuple[int, bool]]:
    """Run a command whose work raises an error, as one job of a workflow; its exit code, and whether it began at all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_VARIABLE, "abc1")
    monkeypatch.setattr(sys, "argv", ["cdgmae", "consistency", "score"])

    def run(error: Exception) -> tuple[int, bool]:
        began: list[bool] = []

        def work() -> None:
            began.append(True)
            raise error

        monkeypatch.setattr(cli, "app", work)
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(str(left.value.code)), bool(began)

    return run


def test_too_little_gpu_memory_has_an_exit_code_of_its_own_and_no_traceback(
    command: Callable[[Exception], tuple[int, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation")
    assert command(error) == (EXIT_OUT_OF_MEMORY, True)
    said = capsys.readouterr().err
    assert (
        "error: the GPU's memory does not suffice: CUDA out of memory. Tried to allocate 20.00 GiB. Lower the batch size" in said
    )
    assert "Traceback" not in said
    assert command(error) == (EXIT_OUT_OF_MEMORY, False)
    assert "Tried to allocate 20.00 GiB" in capsys.readouterr().err


def test_what_may_pass_is_tried_again_and_a_fault_of_the_program_keeps_its_traceback(
    command: Callable[[Exception], tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert command(TransientProblem("torch sees no GPU on this node")) == (1, True)
    with pytest.raises(RuntimeError, match="shapes differ"):
        command(RuntimeError("shapes differ"))
    assert not FOLDER.exists()
    monkeypatch.setattr(sys, "argv", ["cdgmae", "cluster", "launch", "srun"])
    for _ in range(2):
        assert command(ValueError("Slurm does not answer")) == (1, True)


def test_all_jobs_of_one_start_of_the_workflow_bear_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "CDGMAE_RUNTIME", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # put back afterwards
    monkeypatch.setenv(RUN_VARIABLE, "given")
    export_environment(check_config(DEMO))
    assert os.environ[RUN_VARIABLE] == "given"  # the snakemake inside a job keeps it
    monkeypatch.delenv(RUN_VARIABLE)
    export_environment(check_config(DEMO))
    assert os.environ[RUN_VARIABLE].isalnum()
    monkeypatch.setenv(RUN_VARIABLE, "given")  # so that it ends with this test
