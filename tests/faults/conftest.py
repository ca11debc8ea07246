"""One place that all drills read, and the undisturbed run of every stage."""

from __future__ import annotations

import importlib
import pkgutil
import time

import pytest
import torch

import cdgmae
from cdgmae.storage.files.publishing import git_state
from tests.faults.rounds import Straight
from tests.faults.stages import STAGES, Place, Stage, build_place, contents


@pytest.fixture(autouse=True, scope="session")
def ready_to_fork() -> None:
    """Import everything once: commands are forked from here. Torch's own threads would not live in a forked process."""
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(cdgmae.__path__, "cdgmae."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    git_state()  # two programs, the same for all


@pytest.fixture(scope="session")
def place(ready_to_fork: None, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return build_place(tmp_path_factory.mktemp("place") / "there")


@pytest.fixture(scope="session")
def straights() -> dict[str, Straight]:
    return {}


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Stage:
    """For tests with `parametrize("stage", NAMES, indirect=True)`."""
    return STAGES[request.param]


@pytest.fixture
def straight(stage: Stage, place: Place, straights: dict[str, Straight], tmp_path_factory: pytest.TempPathFactory) -> Straight:
    if stage.name not in straights:
        folder, started = tmp_path_factory.mktemp("straight") / "out", time.monotonic()
        command = stage.start(place, folder)
        assert command.end_with() == 0, command.log.read_text()
        straights[stage.name] = Straight(folder, contents(folder), time.monotonic() - started)
    return straights[stage.name]
