"""The whole workflow: its files, its tables, and that a killed run ends with the same ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from cdgmae import __version__
from cdgmae.config import load_config
from cdgmae.status.expected import expected_jobs
from cdgmae.status.status_summary import workflow_status
from cdgmae.storage.files.records import find_record, read_record, record_path
from cdgmae.storage.verify import verify_paths
from cdgmae.training.metrics import MACHINE_COLUMNS
from tests.docs.remedies import COMMAND
from tests.workflow.conftest import ROOT, Workplace, environment, set_key, tiny_config

pytestmark = pytest.mark.slow

DECLARED = [
    "data/demo/demo.json",
    "results/shards/demo/manifest.parquet",
    "results/shards/demo/00000.tar",
    "results/shards/demo/00001.parquet",
    "results/shards/demo/summary.parquet",
    "results/generators/s_ldm/model_index.json",
    "results/views/s_ldm/00000.tar",
    "results/views/s_ldm/00001.parquet",
    "results/consistency/s_ldm/00000.parquet",
    "results/consistency/summary.parquet",
    "results/consistency/summary.csv",
    *(
        f"results/pretrain/{run}/seed0/{name}"
        for run in ("conditioning", "crops", "cdg")
        for name in ("encoder.safetensors", "model.safetensors", "config.json", "metrics.parquet")
    ),
    *(
        f"results/propagation/{encoder}/{file}"
        for encoder in ("random", "crops", "cdg")
        for clips in ("davis", "vip", "jhmdb")
        for file in (f"{clips}.parquet", f"strips/{clips}/strips.json")
    ),
    "results/propagation/summary.parquet",
    "results/propagation/summary.csv",
    "results/report/index.html",
]
WALL_CLOCK = list(MACHINE_COLUMNS)


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Every Parquet table below results/, without wall-clock columns."""
    found = sorted((folder / "results").rglob("*.parquet"))
    return {
        str(path.relative_to(folder)): pq.read_table(path).to_pandas().drop(columns=WALL_CLOCK, errors="ignore") for path in found
    }


def test_declared_files_exist_and_nothing_unfinished_is_left_in_work(finished: Workplace) -> None:
    missing = [name for name in DECLARED if not (finished.folder / name).is_file()]
    assert missing == []
    files = [path.relative_to(finished.folder / "work") for path in (finished.folder / "work").rglob("*") if path.is_file()]
    assert [str(path) for path in files if path.parts[0] not in ("finished", "last_run.json")] == []
    hidden = [str(path) for path in (finished.folder / "results").rglob(".*")]
    assert [name for name in hidden if not name.endswith((".snakemake_timestamp", ".record.json"))] == []
    assert [found for found in verify_paths([finished.folder / "results"]) if not found.ok or not found.recorded] == []
    result = workflow_status(load_config(finished.config_file), finished.folder)
    assert (result["undeclared"], result["made_otherwise"]) == ([], [])


def test_every_job_left_a_log_and_a_benchmark(finished: Workplace) -> None:
    for rule in (
        "write_shard",
        "train_generator",
        "make_views",
        "score_views",
        "pretrain_encoder",
        "propagate_labels",
        "write_report",
    ):
        assert list((finished.folder / "logs" / rule).rglob("*.log")), rule
        assert list((finished.folder / "benchmarks" / rule).rglob("*.tsv")), rule


def test_every_declared_result_tells_where_it_comes_from(finished: Workplace) -> None:
    outputs = {output: job.rule for job in expected_jobs(load_config(finished.config_file)) for output in job.outputs}
    made = {
        output: rule for output, rule in outputs.items() if output.startswith("results/") and (finished.folder / output).exists()
    }
    assert {"write_manifest", "make_views", "score_views", "pretrain_encoder", "propagate_labels", "write_report"} <= set(
        made.values()
    )
    for output, rule in made.items():
        path = finished.folder / output
        record = read_record(record_path(path)) if path.is_dir() else find_record(path)
        assert record is not None, output
        metadata = record.metadata
        assert (metadata["version"], metadata["command"][0]) == (__version__, "cdgmae"), output
        assert all(metadata[name] for name in ("python", "libraries", "device", "host", "finished")), output
        assert {"git", "git_dirty", "slurm_job"} <= set(metadata), output
        assert metadata["settings"] or rule in ("list_left_out", "summarise_propagation"), output
        assert metadata["seed"] or rule not in ("write_manifest", "make_views", "train_generator", "pretrain_encoder"), output
        assert metadata["inputs"], output
        assert all(len(digest) in (12, 64) for digest in metadata["inputs"].values()), metadata["inputs"]


def test_memory_is_what_the_page_says(finished: Workplace) -> None:
    page = (ROOT / "docs/reference/limits.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    stated = {rule: float(row[2].replace(",", "")) for row in rows for rule in re.findall(r"`(\w+)`", row[1])}
    measured: dict[str, float] = {}
    for path in (finished.folder / "benchmarks").rglob("*.tsv"):
        rule = path.relative_to(finished.folder / "benchmarks").parts[0]
        measured[rule] = max(measured.get(rule, 0.0), *pd.read_csv(path, sep="\t")["max_rss"].fillna(0.0))
    assert set(measured) <= set(stated)
    assert {rule: megabytes for rule, megabytes in measured.items() if megabytes > 1.25 * stated[rule]} == {}


FLIPPED = ["results/pretrain/crops/seed0/encoder.safetensors", "results/views/s_ldm/00001.tar"]
"""Of the same size, so that a plan does not see it; who reads them does."""


def test_flipped_bytes_are_found_and_the_remedies_in_the_messages_bring_the_run_to_its_end(copied: Workplace) -> None:
    verify = ["cdgmae", "verify", "results"]

    def verified() -> subprocess.CompletedProcess[str]:
        return subprocess.run(verify, capture_output=True, text=True, env=environment(), cwd=copied.folder)

    assert verified().returncode == 0
    for name in FLIPPED:
        content = bytearray((copied.folder / name).read_bytes())
        content[700] ^= 0xFF
        (copied.folder / name).write_bytes(content)
    found = verified()
    assert found.returncode == 1
    assert [line.strip() for line in found.stdout.splitlines() if line.startswith("    rm -r")] == [
        f"rm -r {name}" for name in sorted(FLIPPED)
    ]
    done, remedies = copied.run("--keep-going"), set[str]()
    while done.returncode and len(remedies) < len(FLIPPED):
        words = " ".join((done.stdout + done.stderr).split())
        new = {command for command in COMMAND.findall(words) if command.startswith("rm")} - remedies
        assert new, words[-4000:]
        for command in new:
            subprocess.run(command, shell=True, check=True, cwd=copied.folder)
        remedies |= new
        done = copied.run("--keep-going")
    assert remedies == {f"rm -r {name}" for name in FLIPPED}
    assert done.returncode == 0, done.stderr[-3000:]
    assert verified().returncode == 0
    assert copied.planned_jobs() == {}


def test_a_summary_that_is_lost_comes_by_the_command_of_the_message(copied: Workplace) -> None:
    show = ["cdgmae", "consistency", "show"]

    def shown() -> subprocess.CompletedProcess[str]:
        return subprocess.run(show, capture_output=True, text=True, env=environment(), cwd=copied.folder)

    (copied.folder / "results/consistency/summary.parquet").unlink()
    words = " ".join((message := shown()).stderr.split())
    assert message.returncode == 1
    command = COMMAND.findall(words)[0].split()
    assert command[0] == "snakemake"
    done = copied.run(*command[1:])
    assert done.returncode == 0, done.stderr[-2000:]
    assert shown().returncode == 0


def test_summary_has_three_encoders_and_the_papers_columns(finished: Workplace) -> None:
    summary = pd.read_csv(finished.folder / "results/propagation/summary.csv")
    assert set(summary["encoder"]) == {"random", "crops", "cdg"}
    assert {"encoder", "J&F", "J", "F", "mIoU", "PCK@0.1", "PCK@0.2"} <= set(summary.columns)
    assert summary.notna().to_numpy().all()
    consistency = pd.read_csv(finished.folder / "results/consistency/summary.csv")
    assert list(consistency["source"]) == ["s_ldm"]
    assert int(consistency["pairs"].iloc[0]) == 24 * 2


def test_tables_carry_version_settings_and_inputs(finished: Workplace) -> None:
    for name in (
        "results/views/s_ldm/00000.parquet",
        "results/consistency/s_ldm/00000.parquet",
        "results/shards/demo/00000.parquet",
    ):
        result = json.loads(pq.read_schema(finished.folder / name).metadata[b"cdgmae"])
        assert result["version"]
        assert result["settings"]
        assert result["inputs"], name


def kill_after(place: Workplace, jobs: int) -> None:
    """Start the workflow in its own process group and kill all of it, in the midst of others, when so many jobs are done."""
    process = subprocess.Popen(
        place.command("--quiet", "all"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment(),
    )
    while len(list((place.folder / "benchmarks").rglob("*.tsv"))) < jobs:
        assert process.poll() is None
        time.sleep(0.2)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_run_killed_again_and_again_ends_with_the_same_tables(finished: Workplace, tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    place.write_config(tiny_config())
    for jobs in (2, 9, 17, 26):
        kill_after(place, jobs)
    done = place.run("--show-failed-logs")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    expected, found = tables(finished.folder), tables(place.folder)
    assert sorted(expected) == sorted(found)
    for name, table in expected.items():
        pd.testing.assert_frame_equal(table, found[name], obj=name)
    for name in ("results/views/s_ldm/00000.tar", "results/pretrain/cdg/seed0/model.safetensors"):
        assert (finished.folder / name).read_bytes() == (place.folder / name).read_bytes(), name


def test_orphan_of_a_killed_controller_and_its_successor_do_not_disturb_each_other(copied: Workplace) -> None:
    place, name = Workplace(copied.folder, warm=False), "results/pretrain/conditioning/seed0/encoder.safetensors"
    before = (place.folder / name).read_bytes()
    for folder in ("results/pretrain", "work/finished/pretrain"):
        shutil.rmtree(place.folder / folder)
    command = place.command(name, "--quiet", "all")
    controller = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(warm=False))
    deadline = time.monotonic() + 120
    while not list((place.folder / "results").glob("pretrain/*/.seed0.lock")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert controller.poll() is None
    controller.kill()  # the job goes on without its controller
    controller.wait()
    done = place.run(name)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (place.folder / name).read_bytes() == before


def test_deleted_scores_come_back_by_their_second_name(copied: Workplace) -> None:
    table = copied.folder / "results/consistency/s_ldm/00000.parquet"
    before, log = table.read_bytes(), copied.folder / "logs/score_views/s_ldm/00000.log"
    table.unlink()
    done = copied.run("consistency")
    assert done.returncode == 0, done.stderr[-3000:]
    assert table.read_bytes() == before
    assert "was finished before" in log.read_text()
    assert copied.planned_jobs("consistency") == {}


def test_a_finished_run_has_nothing_to_do_but_what_a_changed_key_asks_for(copied: Workplace) -> None:
    assert copied.planned_jobs() == {}
    copied.write_config(set_key(tiny_config(), "pretrain.runs.cdg.anchor_masking_ratio", 0.5))
    planned = copied.planned_jobs()
    assert (planned["pretrain_encoder"], planned["propagate_labels"], planned["write_report"]) == (1, 3, 1)
    assert not {"write_shard", "make_views", "score_views", "train_generator"} & set(planned)


def test_a_key_that_is_changed_and_changed_back_trains_nothing_a_third_time(copied: Workplace) -> None:
    encoder = copied.folder / "results/pretrain/cdg/seed0/encoder.safetensors"
    target, before = str(encoder.relative_to(copied.folder)), encoder.read_bytes()
    copied.write_config(set_key(tiny_config(), "pretrain.runs.cdg.view_filter", "nps > 0.999999"))  # no bag is left: it fails
    assert copied.run(target).returncode != 0
    copied.write_config(tiny_config())
    done = copied.run(target)
    assert done.returncode == 0, done.stderr[-3000:]
    assert encoder.read_bytes() == before
    assert "was finished before" in (copied.folder / "logs/pretrain_encoder/cdg/seed0.log").read_text()
