"""One writer per artifact, also across processes and after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from cdgmae.storage.files.locks import exclusive_writer

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
