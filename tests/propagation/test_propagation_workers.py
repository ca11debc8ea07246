"""Clips over several processes and shares: the same table, nothing done twice, signals honoured."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from drawn_clips import write_davis
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.commands.propagation import parse_share
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.runtime.devices import worker_devices
from cdgmae.runtime.interrupts import EXIT_INTERRUPTED
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from tests.warm_start import warm_programs

ON_CPU = RuntimeSettings(device="cpu")
PIXELS = "pixels:8"


def finished_clips(work: Path) -> list[Path]:
    return [path for path in work.glob("clip*.jsonl") if path.stat().st_size]


@pytest.mark.slow
def test_two_processes_stop_on_a_signal_and_continue_to_the_table_of_one(tmp_path: Path) -> None:
    names = tuple(f"clip{number}" for number in range(10))
    root = write_davis(tmp_path / "clips", names, frames=8, step=2)
    protocol = DavisProtocol(root=str(root), input_size=(128, 192), radius=6.0)
    run_propagation(protocol, parse_encoder(PIXELS), tmp_path / "one/davis.parquet", runtime=ON_CPU)
    command = [
        str(warm_programs() / "cdgmae"), "propagation", "run", "davis", "--settings", protocol.canonical_json(), "--encoder", PIXELS,
        "--output", str(tmp_path / "two"), "--work", str(tmp_path / "work"), "--device", "cpu", "--runtime", '{"workers": 2}', "--threads", "2",
    ]  # fmt: skip
    job = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while job.poll() is None and not finished_clips(tmp_path / "work"):
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGUSR1)  # as Slurm does: every process of the job gets it
    errors = job.communicate(timeout=120)[1]
    assert job.returncode == EXIT_INTERRUPTED, errors
    finished = finished_clips(tmp_path / "work")
    assert 0 < len(finished) < len(names)
    done: list[str] = []
    run_propagation(
        protocol,
        parse_encoder(PIXELS),
        tmp_path / "two/davis.parquet",
        runtime=ON_CPU,
        work_dir=tmp_path / "work",
        after_clip=done.append,
    )
    assert len(done) == len(names) - len(finished)
    assert (tmp_path / "two/davis.parquet").read_bytes() == (tmp_path / "one/davis.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("forked_commands")
def test_an_error_in_a_worker_process_reaches_the_user(tmp_path: Path) -> None:
    protocol = DavisProtocol(root=str(write_davis(tmp_path / "clips", frames=3)), input_size=(64, 96))
    (tmp_path / "file").write_text("in the way of a folder")
    with pytest.raises(ValueError, match="file cannot be written"):
        run_propagation(
            protocol,
            parse_encoder(PIXELS),
            tmp_path / "t.parquet",
            runtime=RuntimeSettings(device="cpu", workers=2),
            save_predictions=tmp_path / "file",
        )


def test_shares_meet_in_the_work_folder(tmp_path: Path) -> None:
    root, runner = write_davis(tmp_path / "clips", ("one", "two", "three"), frames=3), CliRunner()
    protocol = DavisProtocol(root=str(root), input_size=(64, 96))
    arguments = [
        "run", "davis", "--settings", protocol.canonical_json(), "--encoder", PIXELS, "--output", str(tmp_path), "--device",
        "cpu",
    ]  # fmt: skip
    for share, clips in (("0/2", 2), ("1/2", 1)):
        result = runner.invoke(app, ["propagation", *arguments, "--share", share, "--json"])
        assert result.stdout.splitlines()[-1] == f'{{"clips": {clips}}}'
        assert not (tmp_path / "davis.parquet").exists()
    done: list[str] = []
    scores = run_propagation(
        protocol,
        parse_encoder(PIXELS),
        tmp_path / "davis.parquet",
        runtime=ON_CPU,
        work_dir=tmp_path / ".davis.work",
        after_clip=done.append,
    )
    assert done == []
    assert scores == run_propagation(protocol, parse_encoder(PIXELS), tmp_path / "whole.parquet", runtime=ON_CPU)


def test_shares_that_are_none_are_refused(tmp_path: Path) -> None:
    protocol = DavisProtocol(root=str(write_davis(tmp_path / "clips")), input_size=(64, 96))
    with pytest.raises(ValueError, match="share 2/2: give K/N with K from 0 to N - 1"):
        run_propagation(protocol, parse_encoder(PIXELS), tmp_path / "t.parquet", runtime=ON_CPU, work_dir=tmp_path, share=(2, 2))
    for text in ("2", "a/b", "-1/2"):
        with pytest.raises(ValueError, match="give K/N"):
            parse_share(text)


def test_workers_go_round_the_devices() -> None:
    assert worker_devices(torch.device("cpu"), None) == [torch.device("cpu")]
    assert worker_devices(torch.device("cuda", 1), 3) == [torch.device("cuda", 1)] * 3


def test_ranks_of_one_job_share_out_the_clips_and_the_first_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_davis(tmp_path / "clips", ("one", "two", "three"), frames=3)
    protocol = DavisProtocol(root=str(root), input_size=(64, 96))
    run_propagation(protocol, parse_encoder(PIXELS), tmp_path / "one/davis.parquet", runtime=ON_CPU)
    monkeypatch.setenv("WORLD_SIZE", "2")
    done: dict[str, list[str]] = {"0": [], "1": []}
    for number in ("1", "0"):
        monkeypatch.setenv("RANK", number)
        result = run_propagation(protocol, parse_encoder(PIXELS), tmp_path / "two/davis.parquet", runtime=ON_CPU, work_dir=tmp_path / "work",
            after_clip=done[number].append,
        )  # fmt: skip
        assert (result == {"clips": 1}) == (number == "1")
    assert {number: len(clips) for number, clips in done.items()} == {"0": 2, "1": 1}
    assert (tmp_path / "two/davis.parquet").read_bytes() == (tmp_path / "one/davis.parquet").read_bytes()
    monkeypatch.setenv("RANK", "0")  # the other one does not come: the first waits and can be stopped

    def stop(name: str) -> None:
        if name == "of this process's share":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_propagation(
            protocol,
            parse_encoder(PIXELS),
            tmp_path / "three/davis.parquet",
            runtime=ON_CPU,
            work_dir=tmp_path / "work",
            after_clip=stop,
        )
