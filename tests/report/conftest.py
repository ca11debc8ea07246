"""Made-up results for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_results import FakeResults


@pytest.fixture
def fake(tmp_path: Path) -> FakeResults:
    """Writer of made-up results in an empty folder."""
    return FakeResults(tmp_path / "results")


@pytest.fixture(scope="session")
def whole_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all stages; tests only read them."""
    return FakeResults(tmp_path_factory.mktemp("whole") / "results").write_all()
