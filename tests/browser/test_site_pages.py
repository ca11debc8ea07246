"""The documentation's pages opened from the file system: in silence, without a request to elsewhere, with links that lead somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.chromium import WINDOW, Browser
from tests.browser.page_checks import broken_links, open_quietly

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly; notebooks are shown as text, `make docs` executes them."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("documentation") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "EXECUTE_NOTEBOOKS": "false"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_every_page_of_the_site_opens_without_complaint_or_request(browser: Browser, site: Path) -> None:
    pages = sorted(
        page for page in site.rglob("*.html") if page.name != "404.html"
    )  # a server's page, which knows its own address alone
    assert len(pages) > 20
    for page in pages:
        open_quietly(browser, page)
        assert browser.run("return document.documentElement.scrollWidth") <= WINDOW[0], page
        assert browser.broken_images() == [], page
        assert broken_links(browser, page) == [], page


def test_the_site_is_searched_without_a_server(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html", "?q=num_shards")
    results = "return [...document.querySelectorAll('.md-search-result__link')].map(link => link.href)"
    found = WebDriverWait(browser.driver, 20, 0.1).until(lambda _: browser.run(results), "search finds nothing")
    assert any("configuration.html" in address for address in found)
    assert browser.problems() == []
