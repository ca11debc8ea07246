"""The paper's tables as targets of the workflow: complete job graphs on empty example trees, and tables of the finished demo."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.paper import PAPER_TABLES
from tests.docs.test_pages_say_what_is import generated_page
from tests.workflow.conftest import RESUME, ROOT, SNAKEMAKE, Workplace, environment
from tests.workflow.planning import stand_in_data

PAPER = ROOT / "workflow/experiments/paper.yaml"


def plan(folder: Path, *targets: str, overlay: str | None = None) -> tuple[int, str]:
    configs = [str(PAPER), *([str(ROOT / f"workflow/experiments/{overlay}.yaml")] if overlay else [])]
    command = [*SNAKEMAKE, "--directory", str(folder), *RESUME, *targets, "-n", "--configfile", *configs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment())
    return done.returncode, done.stdout + done.stderr


def job_counts(text: str) -> Counter[str]:
    """Jobs per rule."""
    counts: Counter[str] = Counter()
    for line in text.split("Job stats:\n", 1)[1].split("\n\n", 1)[0].splitlines():
        row = line.split()
        if len(row) == 2 and row[1].isdecimal():
            counts[row[0]] += int(row[1])
    return counts


@pytest.fixture
def example_trees(tmp_path: Path) -> Path:
    stand_in_data(tmp_path, PAPER)
    (tmp_path / "data/generators/gen_sis").mkdir(parents=True)
    return tmp_path


def test_tables_of_the_papers_settings_list_a_complete_job_graph(example_trees: Path) -> None:
    code, text = plan(example_trees, "table1", "table4", "table8")
    assert code == 0, text[-3000:]
    assert job_counts(text) == {
        "write_manifest": 1, "write_shard": 128, "summarise_shards": 1, "make_views": 128, "score_views": 128,
        "pretrain_encoder": 6, "prepare_davis": 1, "propagate_labels": 18, "write_table": 3, "table1": 1, "table4": 1, "table8": 1, "total": 417,
    }  # fmt: skip
    assert "results/pretrain/cdg_a3/seed2/encoder.safetensors" in text
    for evaluation_set in ("davis", "vip", "jhmdb"):
        assert f"results/propagation/cdg_a3_seed2/{evaluation_set}.parquet" in text


def test_the_overlay_of_table_4_brings_all_its_runs_and_the_page_of_costs_counts_them(example_trees: Path) -> None:
    code, text = plan(example_trees, "table4", overlay="table4")
    assert code == 0, text[-3000:]
    counts = job_counts(text)
    assert (counts["pretrain_encoder"], counts["propagate_labels"], counts["write_table"]) == (18, 54, 1)
    cost = generated_page("table_costs").cost_of("table4")
    assert (cost.trainings, cost.propagations, cost.view_jobs, cost.score_jobs) == (18, 54, counts["make_views"], 0)


ZOO_WEIGHTS = ("ibot_vits16.pth", "siammae_vits16.pth", "cropmae_vits16.pth")


@pytest.mark.parametrize(("base", "encoders"), [((), 10), ((PAPER,), 14)])
def test_public_encoders_are_judged_under_one_protocol_alone_and_beside_the_papers_runs(
    example_trees: Path, base: tuple[Path, ...], encoders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(example_trees)  # `config check` looks for the data
    (example_trees / "data/weights").mkdir()
    for name in ZOO_WEIGHTS:
        (example_trees / "data/weights" / name).touch()
    configs = [*base, ROOT / "workflow/experiments/zoo.yaml"]
    command = [*SNAKEMAKE, "--directory", str(example_trees), *RESUME, "-n", "propagation", "--configfile", *map(str, configs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert job_counts(done.stdout + done.stderr)["propagate_labels"] == 3 * encoders
    sets = yaml.safe_load(configs[-1].read_text())["propagation"]["datasets"].values()
    assert not [side % patch for values in sets for side in values["input_size"] for patch in (8, 14, 16) if side % patch]
    checked = CliRunner().invoke(app, ["config", "check", "--json", *[f"--config={path}" for path in configs]])
    assert checked.exit_code == 0, checked.output


def test_missing_data_gives_one_message(example_trees: Path) -> None:
    for tree in ("data/DAVIS", "data/imagenet/train"):
        shutil.rmtree(example_trees / tree)
    code, text = plan(example_trees, "table1", "table4", "table8")
    assert code != 0
    assert "shards.datasets.imagenet.path = 'data/imagenet/train'" in text
    assert "propagation.datasets.davis.root = 'data/DAVIS'" in text
    assert text.count("does not exist") == text.count("shards.datasets") + text.count("propagation.datasets")
    assert "Traceback" not in text


@pytest.mark.slow
def test_the_finished_demo_gives_all_tables_without_training(finished: Workplace) -> None:
    for name in PAPER_TABLES:
        with (finished.folder / f"results/tables/{name}.csv").open() as file:
            cells = list(csv.DictReader(file))
        assert any(cell["ours"] for cell in cells), name
        assert all(cell["ours"] or cell["missing"] for cell in cells), name
    assert (finished.folder / "results/report/index.html").is_file()
    assert set(finished.planned_jobs("all", "tables")) <= {"tables"}


def run(folder: Path, *arguments: str) -> str:
    """What snakemake says about the paper's configuration."""
    command = [*SNAKEMAKE, "--directory", str(folder), *RESUME, *arguments, "--configfile", str(PAPER)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_rules_that_snakemake_lists_are_those_that_stand_in_the_files(example_trees: Path) -> None:
    written = {
        name
        for file in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
        for name in re.findall(r"^(?:rule|use rule \w+ as) (\w+)(?: with)?:", file.read_text(), re.MULTILINE)
    }
    listed = {line.split()[0] for line in run(example_trees, "--list-rules").splitlines() if line.strip()}
    targets = {name for name in listed if name in PAPER_TABLES}  # made in a loop, of targets alone
    assert listed - targets == written


def test_rules_of_the_papers_settings_are_forced_stopped_at_and_given_resources_by_their_names(example_trees: Path) -> None:
    assert job_counts(run(example_trees, "-n", "views", "--forcerun", "make_views"))["make_views"] == 128
    stopped = job_counts(run(example_trees, "-n", "views", "--until", "write_shard"))
    assert set(stopped) == {"write_manifest", "write_shard", "total"}
    text = run(example_trees, "-n", "results/views/s_ldm/00007.tar", "--set-resources", "make_views:mem_mb=777")
    assert "mem_mb=777" in text or "mem_mb: 777" in text
