"""Pre-training by its command: killed without warning, on several processes, and resumed on another number of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from cdgmae.runtime.interrupts import EXIT_INTERRUPTED
from cdgmae.storage.tables import read_table
from cdgmae.training.state import STATE_PATTERN
from tests.pretrain.drawn_bags import RUN, write_bags
from tests.warm_start import warm_programs

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CDGMAE_RUNTIME": '{"trackers": []}'}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "cdgmae"]
ALONE = ["-m", "cdgmae"]
SETTINGS = RUN.model_copy(update={"epochs": 25})
"""50 steps on 20 bags."""


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    write_bags(folder)
    return folder


def start(launcher: list[str], bags: Path, output: Path, *flags: str, python: str | None = None) -> subprocess.Popen[str]:
    command = [
        python or str(warm_programs() / "python"), *launcher, "pretrain", "run", "--settings", SETTINGS.canonical_json(),
        "--shards", str(bags / "shards"), "--views", str(bags / "views"), "--output", str(output), "--work", str(output) + "-work",
        "--device", "cpu", *flags,
    ]  # fmt: skip
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def undisturbed(bags: Path) -> Path:
    output = bags / "undisturbed"
    finish(start(ALONE, bags, output))
    return output


def wait_for_state(process: subprocess.Popen[str], output: Path) -> None:
    """Until the run has saved a state, and a random moment longer."""
    deadline = time.monotonic() + 120
    while not list(Path(f"{output}-work").glob(STATE_PATTERN)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 0.5)))


def losses(output: Path) -> np.ndarray:
    table = read_table(output / "metrics.parquet")
    assert table["step"].to_pylist() == list(range(50))
    return table["loss"].to_numpy()


def test_kill_9_at_a_random_step_gives_the_same_weights_and_metrics(bags: Path, undisturbed: Path) -> None:
    output = bags / "killed"
    process = start(ALONE, bags, output, "--runtime", '{"checkpoint_interval_steps": 3}')
    wait_for_state(process, output)
    process.kill()
    process.wait()
    assert not (output / "encoder.safetensors").exists()
    finish(start(ALONE, bags, output, "--runtime", '{"checkpoint_interval_steps": 3}'))
    assert (output / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert np.array_equal(losses(output), losses(undisturbed))


def test_signal_leaves_with_the_documented_code_and_continues(bags: Path, undisturbed: Path) -> None:
    output = bags / "signalled"
    process = start(ALONE, bags, output, "--runtime", '{"checkpoint_interval_steps": 3, "loader_workers": 1}')
    wait_for_state(process, output)
    os.killpg(process.pid, signal.SIGUSR1)  # to all processes of the job, as a batch system does
    process.communicate(timeout=120)
    assert process.returncode == EXIT_INTERRUPTED
    finish(start(ALONE, bags, output))
    assert (output / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_two_processes_learn_what_one_does(bags: Path, undisturbed: Path) -> None:
    output = bags / "two"
    printed = finish(start(TORCHRUN, bags, output))
    assert printed.count("last_loss") == 1
    assert np.abs(losses(output) - losses(undisturbed)).max() < 1e-4


def test_resume_on_another_number_of_processes(bags: Path, undisturbed: Path) -> None:
    output = bags / "shrunk"
    process = start(TORCHRUN, bags, output, "--runtime", '{"checkpoint_interval_steps": 3}', python=sys.executable)
    wait_for_state(process, output)
    for child in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        child.kill()  # the launcher gives its processes groups of their own
    process.wait()
    printed = finish(start(ALONE, bags, output, "--runtime", '{"micro_batch_size": 3}'))
    assert "going on after step" in printed
    assert np.abs(losses(output) - losses(undisturbed)).max() < 1e-4
