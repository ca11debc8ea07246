"""`cdgmae status` against Snakemake's own knowledge, and beside a running workflow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cdgmae.config import check_config, load_config
from cdgmae.status.expected import expected_jobs
from tests.workflow.conftest import Workplace, environment, tiny_config
from tests.workflow.test_rules import RULES
from tests.workflow.test_view_sources import SOURCES


def snakemakes_outputs(place: Workplace) -> dict[str, str]:
    """Output -> rule of everything behind the default target, as `snakemake --summary` lists it."""
    done = place.run("--summary")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0][:3] == ["output_file", "date", "rule"]
    return {row[0]: row[2] for row in rows[1:]}


def every_kind_of_source() -> dict[str, Any]:
    """The tiny demo with sources of all kinds, all scored, and two seeds."""
    config = tiny_config()
    clips = {"path": "data/demo/DAVIS/JPEGImages/480p", "layout": "clips", "num_shards": 1, "frames_after": 2}
    config["shards"]["datasets"]["clips"] = clips
    config["views"]["sources"] |= SOURCES
    config["consistency"]["sources"] = ["s_ldm", *SOURCES]
    config["pretrain"]["seeds"] = [0, 1]
    return config


@pytest.mark.parametrize("config", [tiny_config(), every_kind_of_source()], ids=["demo", "all kinds of sources"])
def test_expected_jobs_are_those_that_snakemake_plans(tmp_path: Path, config: dict[str, Any]) -> None:
    place = Workplace(tmp_path)
    (tmp_path / "edited").mkdir()  # the folder of a source of kind `folder`
    place.write_config(config)
    expected = {output: job.rule for job in expected_jobs(load_config(place.config_file)) for output in job.outputs}
    planned = snakemakes_outputs(place)
    assert {output: planned.get(output) for output in expected} == expected
    rest = {rule for output, rule in planned.items() if output not in expected}
    assert rest <= {"pretrain_encoder"}  # whose encoder, written last, stands for its other files


def matches(pattern: str, path: str) -> bool:
    """Whether a path of a rule, with its wildcards, can be `path`."""
    return re.fullmatch(re.sub(r"\\{\w+\\}", r"[A-Za-z0-9_-]+", re.escape(pattern)), path) is not None


def test_logs_benchmarks_and_work_folders_of_expected_jobs_are_those_of_the_rules() -> None:
    for job in expected_jobs(check_config(every_kind_of_source())):
        body = RULES[job.rule]
        for path, found in (
            (job.log, r'"(logs/[^"]+\.log)"'),
            (job.benchmark, r'"(benchmarks/[^"]+)"'),
            (next(iter(job.work), None), r'work="([^"]+)"'),
        ):
            patterns = re.findall(found, body)
            assert len(patterns) == (path is not None), (job, found)
            assert path is None or matches(patterns[0], path), (path, patterns)


def status(place: Workplace) -> dict[str, Any]:
    command = ["cdgmae", "status", "--config", str(place.config_file), "--folder", str(place.folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.slow
def test_status_of_a_finished_run_and_after_outputs_are_deleted(copied: Workplace) -> None:
    jobs = expected_jobs(load_config(copied.config_file))
    assert status(copied)["jobs"] == {"done": len(jobs), "running": 0, "failed": 0, "waiting": 0, "to do": 0}
    assert [job.log for job in jobs if not (copied.folder / job.log).is_file()] == []
    assert [job.benchmark for job in jobs if not (copied.folder / job.benchmark).is_file()] == []
    shutil.rmtree(copied.folder / "results/pretrain/cdg/seed0")
    (copied.folder / "results/propagation/random/vip.parquet").unlink()
    planned = sum(copied.planned_jobs().values())
    assert planned > 2  # what follows is to do, too
    assert status(copied)["jobs"] == {"done": len(jobs) - planned, "running": 0, "failed": 0, "waiting": 0, "to do": planned}


@pytest.mark.slow
def test_status_beside_a_running_workflow_is_truthful(copied: Workplace) -> None:
    for name in ("results/pretrain", "results/propagation", "work/finished"):  # what is finished would be put back at once
        shutil.rmtree(copied.folder / name)
    total = len(expected_jobs(load_config(copied.config_file)))
    running, done, seen = 0, 0, set()
    target = "results/pretrain/crops/seed0/encoder.safetensors"
    command = copied.command("results/pretrain/conditioning/seed0/encoder.safetensors", target, "--quiet", "all")
    command.remove("--nolock")  # by the lock status knows that something runs
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    locks = copied.folder / ".snakemake/locks"
    try:
        while process.poll() is None:
            locked = any(locks.glob("*"))
            result = status(copied)
            if not locked or not any(locks.glob("*")):  # not yet, or no more: what other targets would remake counts as to do
                continue
            assert sum(result["jobs"].values()) == total
            assert result["jobs"]["done"] >= done
            assert result["jobs"]["running"] <= 2
            assert result["jobs"]["failed"] == 0
            for group in result["groups"]:
                assert sum(group[state] for state in result["jobs"]) == group["total"]
            assert all(row["done"] is None or 0 <= row["done"] <= row["total"] for row in result["running"])
            assert all((copied.folder / row["log"]).is_file() for row in result["running"])
            done, running = result["jobs"]["done"], max(running, result["jobs"]["running"])
            seen |= {row["name"] for row in result["running"]}
    finally:
        process.wait(timeout=600)
    assert process.returncode == 0
    assert {"conditioning/seed0", "crops/seed0"} <= seen
    result = status(copied)
    assert result["running"] == []
    assert next(row for row in result["groups"] if row["stage"] == "pretrain")["done"] == 2


@pytest.mark.slow
def test_status_names_the_log_and_the_words_of_a_job_that_failed(copied: Workplace) -> None:
    for folder in ("results/pretrain/cdg", "work/finished/pretrain/cdg"):
        shutil.rmtree(copied.folder / folder)
    tar = copied.folder / "results/views/s_ldm/00000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))  # of another size a plan would make it again
    assert copied.run("results/pretrain/cdg/seed0/encoder.safetensors").returncode != 0
    result = status(copied)
    assert result["jobs"]["failed"] == 1
    (error,) = result["errors"]
    assert (error["name"], error["state"]) == ("cdg/seed0", "failed")
    assert (copied.folder / error["log"]).is_file()
    assert "00000.tar" in error["message"]
