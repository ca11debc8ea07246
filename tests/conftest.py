"""What all tests share."""

from __future__ import annotations

import multiprocessing.spawn
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.warm_start import note_pytest, warm_programs

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.browser.chromium import Browser


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-pages`: pages of the documentation that tests make are written instead of compared."""
    parser.addoption(
        "--write-pages", action="store_true", help="write the documentation pages that tests make, e.g. docs/what_reruns.md"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that mostly wait first, then slow ones: the last ones to be started are short, so that parallel workers end together."""
    items.sort(key=lambda item: (item.path.parent.name != "slurm", item.get_closest_marker("slow") is None))


def pytest_configure() -> None:
    """The process of all workers is known to them before they start."""
    note_pytest()


@pytest.fixture(autouse=True)
def _default_signals() -> None:
    """A command's process ends with it, a test's does not: handlers that a test left must not reach what later ones fork."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def forked_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the code under test starts by `sys.executable` starts as `warm_start` says, and so do the processes of pools."""
    before = multiprocessing.spawn.get_executable()
    monkeypatch.setattr("sys.executable", str(warm_programs() / "python"))
    multiprocessing.set_executable(sys.executable)
    yield
    multiprocessing.set_executable(before)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One Chromium for all tests; `browser` is what a test uses."""
    pytest.importorskip("selenium")
    from tests.browser.chromium import PROGRAMS, find_programs, start_chromium

    programs = find_programs()
    if missing := sorted(set(PROGRAMS) - set(programs)):
        pytest.skip(f"no browser here: {' and '.join(missing)} not found")
    driver = start_chromium(programs, tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Chrome, tmp_path: Path) -> Iterator[Browser]:
    """A window with an empty page. The test fails if a page that it opened warned in the console or asked for the network."""
    from tests.browser.chromium import Browser

    window = Browser(chromium, tmp_path)
    window.reset()
    yield window
    assert window.problems() == []
