"""`cdgmae status`: what it tells from outputs, locks, logs and unfinished work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.cluster.queue import jobs_of_folder
from cdgmae.config import Config, ConfigError, load_config
from cdgmae.runtime.progress import last_progress
from cdgmae.status.evidence import REMOTE_QUIET_SECONDS, SILENT_END, JobState, judge
from cdgmae.status.expected import Job, expected_jobs
from cdgmae.status.kept_work import kept_work
from cdgmae.status.status_summary import workflow_status
from cdgmae.storage.files.locks import exclusive_writer, is_held, lock_path
from cdgmae.storage.journal import Journal, NewRecord
from tests.pretrain.drawn_bags import RUN, write_bags
from tests.workflow.conftest import environment

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0
HEADER = "09:00:00 INFO cdgmae 0.1.0, python 3.12.1, host node1, slurm job 17, CUDA_VISIBLE_DEVICES 0\n"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(ROOT / "config.yaml")


def job_of(config: Config, rule: str, name: str) -> Job:
    return next(job for job in expected_jobs(config) if (job.rule, job.name) == (rule, name))


def write(path: Path, text: str = "x", time: float = NOW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time, time))


def finish(job: Job, root: Path, time: float = NOW, seconds: float | None = None) -> None:
    for output in job.outputs:
        write(root / output, time=time)
    if seconds is not None:
        write(root / job.benchmark, f"s\th:m:s\n{seconds}\t0:00:30\n")


def group_of(result: dict[str, Any], stage: str, group: str) -> dict[str, Any]:
    return next(row for row in result["groups"] if (row["stage"], row["group"]) == (stage, group))


def test_the_demo_has_all_stages_and_an_empty_folder_has_everything_to_do(config: Config, tmp_path: Path) -> None:
    result = workflow_status(config, tmp_path, NOW)
    assert result["jobs"] == {"done": 0, "running": 0, "failed": 0, "waiting": 0, "to do": 36}
    totals = {(row["stage"], row["group"]): row["total"] for row in result["groups"]}
    assert totals == {
        ("demo", "demo data"): 1, ("shards", "list of demo"): 2, ("shards", "shards of demo"): 2, ("shards", "check of demo"): 1,
        ("views", "generators"): 1, ("views", "shards of s_ldm"): 2, ("consistency", "shards of s_ldm"): 2, ("consistency", "summary"): 1,
        ("pretrain", "runs"): 3, ("propagation", "evaluation sets"): 9, ("propagation", "summary"): 1, ("report", "page"): 1,
        ("report", "paper tables"): 10,
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_jobs_that_wait_or_run_in_slurm_are_listed_with_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, elsewhere = tmp_path / "bin/squeue", tmp_path / "elsewhere"
    lines = [
        ("17", "PENDING", "Priority", tmp_path, "rule_make_views_wildcards_s_ldm_00003"),
        ("18", "RUNNING", "None", tmp_path, "rule_write_report"),
        ("19", "RUNNING", "None", elsewhere, "rule_make_views_wildcards_other_00000"),
        ("20", "RUNNING", "None", tmp_path, "(null)"),
    ]
    fields = [
        "\x1f".join((job, "cdgmae_x", state, "2026-01-01T00:00:00", reason, str(folder), comment))
        for job, state, reason, folder, comment in lines
    ]
    write(command, "#!/bin/sh\ncat <<END\n" + "\n".join(fields) + "\nEND\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["status", "--config", str(ROOT / "config.yaml"), "--folder", str(tmp_path)]
    assert "Slurm job" not in CliRunner().invoke(app, arguments).stdout  # no workflow ran here yet
    (tmp_path / ".snakemake").mkdir()
    shown = CliRunner().invoke(app, arguments).stdout
    assert re.search(r"17 +PENDING +make_views s_ldm_00003 +.* ago +Priority", shown)
    assert re.search(r"18 +RUNNING +write_report +.* ago", shown)
    assert "other" not in shown
    assert "20 " not in shown


def test_a_queue_that_does_not_answer_is_told_in_a_line_where_jobs_were_submitted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    command = tmp_path / "bin/squeue"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\necho 'squeue: fatal: no source' >&2\nexit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    (tmp_path / ".snakemake").mkdir()
    assert (jobs_of_folder(tmp_path), caplog.messages) == ([], [])
    (tmp_path / ".snakemake/slurm_logs").mkdir()
    assert jobs_of_folder(tmp_path) == []
    assert caplog.messages == ["the queue is not shown, since Slurm does not answer here; `squeue --me` says why"]


def test_outputs_that_come_and_go_change_the_counts(config: Config, tmp_path: Path) -> None:
    for job in expected_jobs(config):
        finish(job, tmp_path)
    assert workflow_status(config, tmp_path, NOW)["jobs"]["done"] == 36
    (tmp_path / "results/views/s_ldm/00001.parquet").unlink()  # a shard is complete with its index only
    result = workflow_status(config, tmp_path, NOW)
    assert (result["jobs"]["done"], result["jobs"]["to do"]) == (35, 1)
    assert group_of(result, "views", "shards of s_ldm")["done"] == 1


def test_a_held_lock_means_running_and_its_log_tells_how_far(config: Config, tmp_path: Path) -> None:
    job = job_of(config, "pretrain_encoder", "cdg/seed0")
    log = (
        HEADER
        + "09:00:05 INFO pretrain: 540 steps, 40 already done\n09:00:35 INFO pretrain: 240/540 steps, 6.67/s, 45 s left, loss 0.7\n"
    )
    write(tmp_path / job.log, log, NOW - 10)
    write(tmp_path / "work/pretrain/cdg/seed0/state-000000040.pt")
    with exclusive_writer(tmp_path / "results/pretrain/cdg/seed0"):
        result = workflow_status(config, tmp_path, NOW)
        write(tmp_path / job.log, HEADER, NOW - 10)
        assert judge(job, tmp_path, NOW).kept == "40 steps"
    (running,) = result["running"]
    assert running == {
        "stage": "pretrain", "rule": "pretrain_encoder", "name": "cdg/seed0", "log": job.log, "done": 240, "total": 540,
        "unit": "steps", "per_second": 6.67, "seconds_left": 35.0, "kept": None,
    }  # fmt: skip


def test_jobs_without_a_lock_run_while_their_log_is_fresh(config: Config, tmp_path: Path) -> None:
    job = job_of(config, "summarise_propagation", "summary")
    write(tmp_path / job.log, HEADER, NOW - 5)
    assert judge(job, tmp_path, NOW).state == "running"
    later = judge(job, tmp_path, NOW + 3600)
    assert (later.state, later.message) == ("failed", f"{SILENT_END}; last line: {HEADER.strip()}")


def test_a_dead_process_of_this_machine_is_not_running_but_one_elsewhere_gets_time(config: Config, tmp_path: Path) -> None:
    job = job_of(config, "pretrain_encoder", "cdg/seed0")
    write(tmp_path / job.log, HEADER, NOW - 100)
    lock = lock_path(tmp_path / "results/pretrain/cdg/seed0")
    write(lock, "process 1 on another-node")
    assert judge(job, tmp_path, NOW).state == "running"
    assert judge(job, tmp_path, NOW + REMOTE_QUIET_SECONDS).state == "failed"
    lock.unlink()
    code = (
        "import os, sys; from pathlib import Path; from cdgmae.storage.files.locks import exclusive_writer\n"
        "with exclusive_writer(Path(sys.argv[1])): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "results/pretrain/cdg/seed0")], check=False)
    assert lock.exists()
    write(tmp_path / job.log, HEADER, NOW - 1)
    assert judge(job, tmp_path, NOW).state == "failed"


@pytest.mark.parametrize(
    ("log", "state", "message"),
    [
        ("error: 00001.tar is cut short; run\nthe views stage again\n", "failed", "00001.tar is cut short; run the views stage again"),
        ("stopped early: saved after step 40 (SIGTERM); run it again\n", "waiting", "saved after step 40 (SIGTERM); run it again"),
        ("Traceback (most recent call last):\n  File x\ntorch.OutOfMemoryError: no memory\n", "failed", "torch.OutOfMemoryError: no memory"),
    ],
)  # fmt: skip
def test_the_end_of_a_log_tells_how_a_job_ended(
    config: Config, tmp_path: Path, log: str, state: str, message: str | None
) -> None:
    job = job_of(config, "pretrain_encoder", "crops/seed0")
    write(tmp_path / job.log, HEADER + log, NOW - 1)
    write(tmp_path / "work/pretrain/crops/seed0/state-000000020.pt")
    found = judge(job, tmp_path, NOW)
    assert (found.state, found.message, found.kept) == (state, message, "20 steps")
    write(tmp_path / job.benchmark, time=NOW)  # which snakemake writes after a success alone
    assert judge(job, tmp_path, NOW).state == "to do"
    finish(job, tmp_path)
    assert judge(job, tmp_path, NOW).state == "done"


def test_logs_of_real_jobs_that_stop_early_or_fail_are_understood(config: Config, tmp_path: Path) -> None:
    job = job_of(config, "pretrain_encoder", "cdg/seed0")
    write_bags(tmp_path)
    command = [
        "cdgmae", "pretrain", "run", "--settings", RUN.canonical_json(), "--shards", str(tmp_path / "shards"),
        "--output", str(tmp_path / "results/pretrain/cdg/seed0"), "--work", str(tmp_path / str(job.work[0])), "--threads", "1",
    ]  # fmt: skip

    def state_after(*arguments: str) -> JobState:
        (tmp_path / job.log).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / job.log).open("w") as log:
            variables = {**environment(), "CDGMAE_TIME_LIMIT": "0", "CDGMAE_RUNTIME": '{"trackers": []}'}
            subprocess.run([*command, *arguments], stdout=log, stderr=log, env=variables, check=False)
        return judge(job, tmp_path, time.time())

    failed = state_after("--views", str(tmp_path / "nowhere"))
    assert failed.state == "failed"
    assert failed.message is not None
    assert failed.message.startswith(f"{tmp_path / 'nowhere'} holds no .tar shards")
    waiting = state_after("--views", str(tmp_path / "views"))
    assert (waiting.state, waiting.kept) == ("waiting", "1 steps")


def test_rates_and_remaining_time_come_from_finished_jobs(config: Config, tmp_path: Path) -> None:
    jobs = [job for job in expected_jobs(config) if job.rule == "propagate_labels"]
    for number, job in enumerate(jobs[:3]):
        finish(job, tmp_path, NOW - 300 + 60 * number)
    write(tmp_path / jobs[3].log, HEADER, NOW - 1)
    group = group_of(workflow_status(config, tmp_path, NOW), "propagation", "evaluation sets")
    assert (group["done"], group["running"], group["to do"]) == (3, 1, 5)
    assert group["jobs_per_hour"] == pytest.approx(60.0)  # one in 60 s by the finish times
    assert group["seconds_left"] == pytest.approx(60 * 5 + 30)
    for job in jobs[:3]:
        finish(job, tmp_path, NOW, seconds=20.0)  # what Snakemake measured is better
    write(tmp_path / jobs[4].log, HEADER, NOW - 1)
    group = group_of(workflow_status(config, tmp_path, NOW), "propagation", "evaluation sets")
    assert group["jobs_per_hour"] == pytest.approx(2 * 3600 / 20)
    assert group["seconds_left"] == pytest.approx((4 * 20 + 2 * 10) / 2)


def test_kept_work_is_what_the_stages_write(tmp_path: Path) -> None:
    assert kept_work(tmp_path / "nowhere") is None
    with Journal(tmp_path / "views", "x", "views").claim("000") as writer:
        writer.append([NewRecord(f"a.{view}", {}, b"jpeg") for view in (1, 2, 3)])
    with (tmp_path / "views/000.jsonl").open("a") as journal:
        journal.write('{"amount": 1, "checksum": ')  # a torn line was never promised
    assert kept_work(tmp_path / "views") == "3 views"
    with Journal(tmp_path / "scores", "x", "pairs").claim("000") as writer:
        writer.append([NewRecord(f"{part:06d}", {}, b"table", 4) for part in range(2)])
    assert kept_work(tmp_path / "scores") == "8 pairs"
    with Journal(tmp_path / "clips", "x", "clips").claim("bear.0123456789abcdef") as writer:
        writer.append([NewRecord("bear", {"rows": [{"unit": "strips"}]})])
    assert kept_work(tmp_path / "clips") == "1 clips"
    for step in (20, 40):
        write(tmp_path / f"training/state-{step:09d}.pt")
    assert kept_work(tmp_path / "training") == "40 steps"


def test_progress_lines_are_read_as_the_meter_writes_them(caplog: pytest.LogCaptureFixture) -> None:
    from cdgmae.runtime.progress import ProgressMeter

    caplog.set_level("INFO", "cdgmae")
    with ProgressMeter("score views", 200, done=50, unit="pairs", interval_seconds=0.0) as meter:
        started = last_progress(f"09:00:00 INFO {caplog.messages[-1]}")
        time.sleep(0.01)
        meter.advance(10, note="loss 0.1")
    assert started is not None
    assert (started.task, started.done, started.total, started.unit, started.rate) == ("score views", 50, 200, "pairs", None)
    found = last_progress("\n".join(f"09:00:00 INFO {message}" for message in caplog.messages))
    assert found is not None
    assert (found.done, found.total, found.unit) == (60, 200, "pairs")
    assert found.rate is not None
    assert found.rate > 0
    assert last_progress("09:00:00 INFO host node1, python 3.12") is None


def test_looking_at_a_lock_leaves_it_as_it_is(tmp_path: Path) -> None:
    output = tmp_path / "00000.tar"
    assert not is_held(output)
    with exclusive_writer(output):
        owner = lock_path(output).read_text()
        assert is_held(output)
        assert lock_path(output).read_text() == owner
    assert not is_held(output)
    assert list(tmp_path.iterdir()) == []


def test_several_configs_are_laid_over_each_other(tmp_path: Path) -> None:
    write(tmp_path / "more.yaml", "pretrain: {seeds: [0, 1, 2]}\nshards: {datasets: {demo: {num_shards: 5}}}\n")
    both = load_config(ROOT / "config.yaml", tmp_path / "more.yaml")
    assert both.pretrain.seeds == [0, 1, 2]
    assert (both.shards.datasets["demo"].num_shards, both.shards.datasets["demo"].path) == (5, "data/demo/images")
    rules = [job.rule for job in expected_jobs(both)]
    assert (rules.count("pretrain_encoder"), rules.count("make_views")) == (9, 5)
    write(tmp_path / "bad.yaml", "pretrain: {sseeds: [0]}")
    with pytest.raises(ConfigError, match=r"config\.yaml, .*bad\.yaml cannot be run"):
        load_config(ROOT / "config.yaml", tmp_path / "bad.yaml")


def test_command_shows_stages_and_errors_and_watch_ends_when_all_is_done(config: Config, tmp_path: Path) -> None:
    job = job_of(config, "score_views", "s_ldm/00001")
    write(tmp_path / job.log, HEADER + "error: [odd] words\n", time.time())
    arguments = ["status", "--config", str(ROOT / "config.yaml"), "--folder", str(tmp_path)]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "150"}).output
    for text in ("pretrain", "evaluation sets", "0/9", "[odd] words", job.log, "0 of 36 jobs done, 1 failed, 35 to do"):
        assert text in shown
    *others, last = expected_jobs(config)
    for other in others:
        finish(other, tmp_path)
    Timer(0.5, finish, (last, tmp_path)).start()
    done = CliRunner().invoke(app, [*arguments, "--watch", "0.1"], catch_exceptions=False, env={"COLUMNS": "150"})
    assert done.exit_code == 0
    assert "36 of 36 jobs done" in done.output
    result = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout.splitlines()[-1])
    assert result["jobs"]["done"] == 36


@pytest.mark.parametrize("flags", [["--json"], []], ids=["json", "table"])
def test_watch_shows_what_changed_and_ctrl_c_ends_it_in_order(config: Config, tmp_path: Path, flags: list[str]) -> None:
    first, second, *_ = expected_jobs(config)
    finish(first, tmp_path)
    command = [
        sys.executable, "-m", "cdgmae", "status", "--config", str(ROOT / "config.yaml"), "--folder", str(tmp_path), "--watch",
        "0.1",
    ]  # fmt: skip
    output = tmp_path / "shown"
    with output.open("w") as file:
        variables = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "150", "LINES": "60"}
        # A test run in the background of a script ignores Ctrl-C, and its children inherit that.
        with_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(
            [*command, *flags], stdout=file, stderr=subprocess.STDOUT, env=variables, preexec_fn=with_ctrl_c
        )

    def wait_for(*wanted: str) -> None:
        deadline = time.monotonic() + 60
        while not any(words in output.read_text() for words in wanted):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)

    wait_for('"done": 1, "running"', "1 of 36 jobs done")
    finish(second, tmp_path)
    wait_for('"done": 2, "running"', "2 of 36 jobs done")
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
    assert "Traceback" not in output.read_text()


def test_status_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cdgmae.cli import app\n"
        "try: app(['status', '--config', sys.argv[1], '--folder', sys.argv[2]])\n"
        "except SystemExit: print([name for name in ('torch', 'timm', 'pandas', 'diffusers', 'snakemake') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "config.yaml"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
