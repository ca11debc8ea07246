"""One writer per artifact, also across processes and after a kill."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.storage.files.atomic import temporary_name, write_text
from cdgmae.storage.files.locks import exclusive_writer, is_held
from cdgmae.storage.files.publishing import published
from cdgmae.storage.files.records import find_record
from cdgmae.storage.verify import verify_paths
from tests.consistency.test_consistency_summary import write_source

HOLD = """
import sys, time
from pathlib import Path
from cdgmae.storage.files.locks import exclusive_writer
with exclusive_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[1]).write_text("first")
"""


def hold(output: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(output), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    output = tmp_path / "table.parquet"
    first = hold(output, 1.0)
    with exclusive_writer(output):
        assert output.read_text() == "first"
    assert first.wait() == 0
    assert list(tmp_path.iterdir()) == [output]


def test_lock_dies_with_a_killed_process(tmp_path: Path) -> None:
    output = tmp_path / "table.parquet"
    first = hold(output, 60.0)
    first.send_signal(signal.SIGKILL)
    first.wait()
    started = time.monotonic()
    with exclusive_writer(output):
        assert time.monotonic() - started < 5
    assert not output.exists()


def test_who_is_waited_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = hold(tmp_path / "seed0", 0.5)
    with exclusive_writer(tmp_path / "seed0"):
        pass
    assert first.wait() == 0
    assert f"waiting for process {first.pid} on {socket.gethostname()} since 20" in caplog.text
    assert f"writing {tmp_path / 'seed0'}" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_without_locks_the_work_goes_on_with_a_warning_and_leaves_files_that_others_may_be_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def impossible(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", impossible)
    output = tmp_path / "table.parquet"
    of_another = temporary_name(output)
    of_another.write_text("half")
    with published(output):
        assert not is_held(output)
        write_text(output, "whole")
    assert f"{tmp_path} is on a file system without locks ({os.strerror(code)})" in caplog.text
    assert (output.read_text(), of_another.read_text()) == ("whole", "half")
    assert find_record(output) is not None


def test_two_runs_on_one_work_folder_come_one_after_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = tmp_path / "work/seed0"
    first = hold(work, 1.0)  # as a run with another output does
    with published(tmp_path / "results/run/seed1", work=work):
        assert work.read_text() == "first"
    assert first.wait() == 0
    assert f"waiting for process {first.pid}" in caplog.text


def test_eighteen_summaries_at_once_are_one(tmp_path: Path) -> None:
    table = write_source(tmp_path / "tables", "s", "s_ldm", {"gs": 0.9, "ls": 0.5, "nps": 0.7, "nps_reverse": 0.7})
    output = tmp_path / "summary.parquet"
    children = []
    for _ in range(18):
        child = os.fork()
        if child == 0:
            done = CliRunner().invoke(app, ["consistency", "summarise", "--output", str(output), str(table)])
            os._exit(done.exit_code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 18
    assert [finding for finding in verify_paths([tmp_path]) if not finding.ok] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".summary.record.json",
        "summary.csv",
        "summary.parquet",
        "tables",
    ]
