"""Snakemake's own messages that people meet: each is provoked, its words are those of docs/when_things_fail.md, and the lines there help."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cdgmae.cli import main
from cdgmae.project.new_project import write_missing_snakefile
from tests.docs.remedies import RUN, SNAKEMAKE, exit_codes
from tests.workflow.conftest import environment

CONFIG = "shards: {datasets: {photos: {path: images, num_shards: 1}}}\n"
PROVOKED = {
    "IncompleteFilesException:": RUN,
    "Error: Directory cannot be locked.": f"{RUN} --rerun-incomplete",
    "Error: No Snakefile found": "snakemake --cores 2",
    "Workflow defines configfile config.yaml but it is not present": "snakemake --cores 2",
    "FileNotFoundError: [Errno 2] No such file or directory: 'mine.yaml'": "snakemake --cores 2 --configfile mine.yaml",
    "FileNotFoundError: [Errno 2] No such file or directory: 'shards'": f"{RUN} shards",
    "Error: cores have to be specified for local execution": "snakemake --configfile my.yaml",
    "MissingRuleException:": f"{RUN} -- shard",
    "ConfigError: what was asked for is not made by this configuration": f"{RUN} -- results/shards/phots/00000.tar",
}
"""What Snakemake says -> the line that it says it to; the first two after a kill."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder with a workflow of two images."""
    (tmp_path / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 30), (number, 2, 3)).save(tmp_path / f"images/{number}.png")
    (tmp_path / "my.yaml").write_text(CONFIG)
    write_missing_snakefile(tmp_path)
    return tmp_path


def run(line: str, folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        shlex.split(line), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def kill_while_a_job_writes(place: Path) -> None:
    """Kill Snakemake, started as users start it, in the midst of a job, and let that come to its end."""
    line = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "my.yaml"]
    with subprocess.Popen(line, cwd=place, env=environment(warm=False), stderr=subprocess.DEVNULL) as process:
        deadline, written = time.monotonic() + 200, place / "results/shards/photos/manifest.parquet"
        while not [file for file in (place / ".snakemake/incomplete").rglob("*") if file.is_file()]:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    while not written.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.slow
def test_each_message_comes_and_the_lines_of_the_page_help(place: Path) -> None:
    assert list(PROVOKED) == list(SNAKEMAKE)
    kill_while_a_job_writes(place)
    for said, line in PROVOKED.items():
        code, words = run(line, place / "images" if "Snakefile" in said else place)
        assert (code, said in words) == (1, True), words[-2000:]
        for helping in SNAKEMAKE[said][1]:
            if helping.startswith("cd "):
                continue  # all that follows runs there
            code, words = run(helping, place)
            is_next = said.startswith("Incomplete") and "cannot be locked" in words
            assert code == 0 or is_next, words[-2000:]
    assert (place / "results/report/index.html").is_file()


def test_the_exit_codes_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    assert list(exit_codes()) == [0, 1, 2, 85, 86, 130]
    monkeypatch.setattr("cdgmae.config.json_schema", interrupted)
    for words, code in (("--version", 0), ("config check --config none.yaml", 1), ("config chec", 2), ("config schema", 130)):
        monkeypatch.setattr(sys, "argv", ["cdgmae", *words.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code, words
