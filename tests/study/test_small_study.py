"""The configuration of the small study: it passes its checks, compares at equal compute, and plans what the GPU script runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from cdgmae.config import Config, load_config
from cdgmae.pretrain.flops import count_flops
from cdgmae.workflow.named_files import load_run
from perf.study.jobs import study_jobs
from perf.study.scale import study_config
from tests.study.conftest import CONFIG
from tests.workflow.conftest import Workplace
from tests.workflow.planning import commands_of_jobs


@pytest.fixture(scope="module")
def place(laid_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A folder with the configuration as shipped and its data where it says."""
    place = Workplace(tmp_path_factory.mktemp("dag"))
    place.write_config(yaml.safe_load(CONFIG.read_text()))
    (place.folder / "data").mkdir()
    (place.folder / "data/small_study").symlink_to(laid_out)
    return place


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(CONFIG)


def test_the_paths_that_it_names_are_all_that_it_needs(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    assert load_run(CONFIG).shards.datasets.keys() == {"imagenet", "guidance", "clips"}


def test_runs_are_compared_at_equal_compute(config: Config) -> None:
    """Operations of a run over all its epochs; epochs are whole numbers, which leaves 5 %."""
    spent = {name: count_flops(run).true_step * run.epochs for name, run in config.pretrain.runs.items()}
    assert spent == pytest.approx(dict.fromkeys(spent, spent["crops"]), rel=0.05)
    larger = study_config(CONFIG, Path("data"), on_gpu=True, tiny=False)
    assert {name: run.epochs / config.pretrain.runs[name].epochs for name, run in larger.pretrain.runs.items()} == dict.fromkeys(
        spent, 5
    )


def test_no_run_trains_on_the_clips_that_judge(config: Config) -> None:
    assert {config.views.sources[run.source].dataset for run in config.pretrain.runs.values()} == {"imagenet"}
    assert config.views.generators["s_ldm"].train.dataset == "imagenet"
    assert config.views.sources["video"].dataset == "clips"


def test_the_script_gives_the_commands_of_the_workflow(place: Workplace, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    # What scores would choose is what stands in the configuration.
    monkeypatch.setattr("perf.study.jobs.consistent_run", lambda run, tables: run)
    monkeypatch.setattr("perf.study.jobs.nearest_scale", lambda config: 1.0)
    planned = commands_of_jobs(place)
    made = {job.name: job for job in study_jobs(config)}
    for_people = {name for name in planned if name.startswith("list_left_out ")} | {"write_table table1", "write_report"}
    assert set(planned) - set(made) == {"summarise_consistency", "summarise_propagation"} | for_people
    assert set(made) <= set(planned)
    for name, job in made.items():
        command = shlex.split(planned[name])
        folders = {word.rpartition("/")[0] for word in command}  # rules name a folder by a file in it
        missing = [word for word in job.arguments() if word not in command and word not in folders]
        assert not missing, f"{name}: {missing} not in {command}"
