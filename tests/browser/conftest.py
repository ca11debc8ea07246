"""The report of made-up results that all tests of this folder open, in one worker when tests run in parallel."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdgmae.report.page import write_report
from cdgmae.settings.report import ReportJobSettings
from tests.report.fake_results import CONTENTS, FakeResults


def pytest_itemcollected(item: pytest.Item) -> None:
    """One Chromium is enough for the tests of this folder."""
    item.add_marker(pytest.mark.xdist_group("browser"))  # in a later hook xdist would not see it


@pytest.fixture(scope="session")
def report_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the report of made-up results of all stages; tests only read it."""
    results = FakeResults(tmp_path_factory.mktemp("browser") / "results").write_all()
    write_report(ReportJobSettings(contents=CONTENTS, title="Made-up results"), results, results / "report")
    return results / "report"
