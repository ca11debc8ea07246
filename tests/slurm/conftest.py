"""The clusters that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster_files import missing_programs
from tests.slurm.virtual_cluster import VirtualCluster

NODES = 3


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One worker of `pytest -n N --dist loadgroup` runs them all: they share clusters, and the machine's cores."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.xdist_group("slurm"))


@pytest.fixture(scope="session")
def _shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualCluster]:
    yield from run_cluster(tmp_path_factory.mktemp("slurm"), accounting=False)


@pytest.fixture
def cluster(_shared_cluster: VirtualCluster) -> Iterator[VirtualCluster]:
    """A cluster without accounting, as good as new: no jobs, all nodes up."""
    yield _shared_cluster
    _shared_cluster.clear()
    _shared_cluster.start_lost_nodes()


@pytest.fixture(scope="module")
def accounting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualCluster]:
    """A cluster with an accounting database."""
    yield from run_cluster(tmp_path_factory.mktemp("slurm"), accounting=True)


def run_cluster(folder: Path, accounting: bool) -> Iterator[VirtualCluster]:
    missing = missing_programs(accounting)
    if missing:
        pytest.skip(f"Slurm{' with accounting' if accounting else ''} is not installed here: no {', '.join(missing)}")
    running = VirtualCluster(folder, NODES, accounting)
    yield running
    running.stop()
