"""A job of the workflow that fails says whether it would fail again; other commands do not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

import pytest
import torch

from cdgmae import cli
from cdgmae.config import check_config
from cdgmae.runtime.interrupts import EXIT_OUT_OF_MEMORY, OutOfDeviceMemory, TransientProblem, may_pass
from cdgmae.settings.runtime import FAILS_AGAIN, RUN_VARIABLE
from cdgmae.workflow.environment import export_environment
from tests.settings.demo_config import DEMO


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
        (raised_from(ValueError("cannot be loaded"), OSError("Unable to load weights from checkpoint file")), False),
        (TransientProblem("a process was killed"), True),
        (OSError(28, "No space left on device"), True),
        (raised_from(ValueError("cannot be written: disk full"), OSError(28, "No space left on device")), True),
    ],
)
def test_what_the_operating_system_or_a_node_refused_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Exception], tuple[int, str]]:
    """Run a command whose work raises an error, as one job of a workflow; its exit code, and what it said."""
    monkeypatch.setenv(RUN_VARIABLE, "abc1")
    monkeypatch.setattr(sys, "argv", ["cdgmae", "consistency", "score"])

    def run(error: Exception) -> tuple[int, str]:
        def work() -> None:
            raise error

        monkeypatch.setattr(cli, "app", work)
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(str(left.value.code)), capsys.readouterr().err

    return run


def test_too_little_gpu_memory_has_an_exit_code_of_its_own_and_no_traceback(
    command: Callable[[Exception], tuple[int, str]],
) -> None:
    code, said = command(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation"))
    assert code == EXIT_OUT_OF_MEMORY
    assert (
        "error: the GPU's memory does not suffice: CUDA out of memory. Tried to allocate 20.00 GiB. Lower the batch size" in said
    )
    assert "Traceback" not in said
    assert said.rstrip().endswith(FAILS_AGAIN)


def test_only_a_job_whose_failure_does_not_pass_says_that_it_would_fail_again(
    command: Callable[[Exception], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = command(ValueError("top_k = 0"))
    assert (code, said.splitlines()[-1]) == (1, FAILS_AGAIN)
    code, said = command(TransientProblem("torch sees no GPU on this node"))
    assert code == 1
    assert FAILS_AGAIN not in said
    with pytest.raises(RuntimeError, match="shapes differ"):
        command(RuntimeError("shapes differ"))
    monkeypatch.setattr(sys, "argv", ["cdgmae", "cluster", "launch", "srun"])
    assert FAILS_AGAIN not in command(ValueError("Slurm does not answer"))[1]
    monkeypatch.setattr(sys, "argv", ["cdgmae", "consistency", "score"])
    monkeypatch.delenv(RUN_VARIABLE)
    assert FAILS_AGAIN not in command(ValueError("top_k = 0"))[1]  # by hand


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
