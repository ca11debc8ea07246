"""The small study as one script, at toy size on the CPU; what it does when the time is over; the file that is brought along."""

from __future__ import annotations

import re
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from perf.study.bundle import open_bundle, write_bundle
from perf.study.jobs import study_jobs
from perf.study.scale import study_config
from perf.study.side_by_side import run_jobs
from tests.study.conftest import CONFIG
from tests.warm_start import warm_programs
from tests.workflow.conftest import environment


def run_script(work: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(warm_programs() / "gpu_study"), "--device", "cpu", "--tiny", "--work", str(work), "--output", str(output), *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment())


@pytest.mark.slow
def test_every_encoder_and_source_is_in_the_table_and_a_second_call_has_nothing_to_do(tmp_path: Path) -> None:
    work, output = tmp_path / "work", tmp_path / "table.md"
    done = run_script(work, output, "--seconds", "800")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    page = output.read_text()
    config = study_config(CONFIG, tmp_path, on_gpu=False, tiny=True)
    for encoder in config.propagation.encoders:
        assert f"| {encoder} | davis_240p | J&F |" in page
        assert f"| {encoder} | jhmdb_6 | PCK@0.1 |" in page
    for source in config.consistency.sources:
        assert f"\n| {source} | " in page.split("GS | LS | NPS")[1]
    assert "the paper's: video > s_ldm > knn > random" in page
    assert "left out" not in page
    assert re.search(r"chosen for `guided`: [1246]\.", page)

    again = run_script(work, output, "--seconds", "800")
    assert again.returncode == 0, again.stdout[-4000:]
    assert "pretrain_encoder" not in again.stdout
    assert [line for line in output.read_text().splitlines() if line.startswith("|")] == [
        line for line in page.splitlines() if line.startswith("|")
    ]
    (work / "study.json").write_text("{}")
    assert "another --work" in run_script(work, output).stderr


def test_jobs_past_the_deadline_are_left_out_and_those_done_are_not_repeated(
    laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = [job for job in study_jobs(study_config(CONFIG, laid_out, on_gpu=False, tiny=True)) if job.name.startswith("write_")]
    late = run_jobs(jobs, 2, time.monotonic() - 1, lambda line: None)
    assert late.left_out == [job.name for job in jobs]

    lines: list[str] = []
    outcome = run_jobs(jobs, 2, time.monotonic() + 300, lines.append)
    assert not outcome.failed, outcome.failed
    assert set(outcome.seconds) == {job.name for job in jobs}
    assert run_jobs(jobs, 2, time.monotonic() + 300, lines.append).seconds == {}
    assert len(lines) == len(jobs)


def test_a_failure_is_shown_and_what_waits_for_it_is_left_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = [
        job for job in study_jobs(study_config(CONFIG, data / "gone", on_gpu=False, tiny=True)) if job.name.startswith("write_")
    ]
    outcome = run_jobs(jobs, 2, time.monotonic() + 300, lambda line: None)
    assert set(outcome.failed) == {"write_manifest imagenet", "write_manifest guidance", "write_manifest clips"}
    assert all("does not exist" in log for log in outcome.failed.values())
    assert all(name.startswith("write_shard") for name in outcome.left_out)


def test_a_bundle_holds_all_clips_and_as_many_images_of_every_class_as_fit(data: Path, tmp_path: Path) -> None:
    clips = sum(path.stat().st_size + 200 for name in ("DAVIS", "JHMDB") for path in (data / name).rglob("*") if path.is_file())
    images = sorted((data / "images").rglob("*.*"))
    limit = clips + sum(path.stat().st_size + 200 for path in images) // 2
    written = write_bundle(data, tmp_path / "bundle.tar.xz", limit)
    assert 0 < written["images"] < len(images)
    assert written["bytes"] <= limit
    with tarfile.open(tmp_path / "bundle.tar.xz") as tar:
        names = [name for name in tar.getnames() if name.startswith("images/")]
    per_class = {
        folder: sum(Path(name).parent.name == folder for name in names) for folder in {path.parent.name for path in images}
    }
    assert max(per_class.values()) - min(per_class.values()) <= 1

    opened = open_bundle(tmp_path / "bundle.tar.xz", tmp_path / "opened")
    frame = next((data / "JHMDB").rglob("*.png")).relative_to(data)
    assert (opened / frame).read_bytes() == (data / frame).read_bytes()
    with pytest.raises(ValueError, match="larger than"):
        write_bundle(data, tmp_path / "small.tar.xz", 1000)
