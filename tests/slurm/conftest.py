"""The cluster that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.virtual_cluster import VirtualCluster, missing_programs


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualCluster]:
    if missing_programs():
        pytest.skip(f"Slurm is not installed here: no {', '.join(missing_programs())}")
    folder: Path = tmp_path_factory.mktemp("slurm")
    running = VirtualCluster(folder, nodes=3)
    yield running
    running.stop()
