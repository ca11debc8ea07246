"""Pages opened as a person opens them, from the file system: no complaint in the console, no request to another machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.browser.chromium import WINDOW, Browser


def test_every_page_of_the_report_opens_without_complaint_or_request(browser: Browser, report_pages: Path) -> None:
    pages = sorted(report_pages.rglob("*.html"))
    assert report_pages / "index.html" in pages
    for page in pages:
        browser.open(page)
        assert browser.run("return document.readyState") == "complete"
        assert browser.broken_pictures() == []
        assert browser.problems() == [], page


def test_the_report_fits_the_window(browser: Browser, report_pages: Path) -> None:
    for page in sorted(report_pages.rglob("*.html")):
        browser.open(page)
        assert browser.run("return document.documentElement.scrollWidth") <= WINDOW[0], page
        with Image.open(browser.screenshot("page")) as picture:
            assert picture.width == WINDOW[0]
            assert picture.height > WINDOW[1]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>console.warn('odd')</script>", "console WARNING"),
        ("<script>nothing.here()</script>", "console SEVERE"),
        ("<img src='gone.png'>", "gone.png"),
        ("<img src='http://example.org/picture.png'>", "request: http://example.org/picture.png"),
        ("<script>fetch('https://example.org/data').catch(() => 0)</script>", "request: https://example.org/data"),
    ],
)
def test_the_harness_sees_what_a_page_must_not_do(browser: Browser, tmp_path: Path, body: str, said: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><title>a page</title><link rel='icon' href='data:,'>{body}")
    browser.open(page)
    assert said in " ".join(browser.problems())
    browser.open(page)
    browser.reset()
    assert browser.problems() == []


def test_the_harness_names_a_picture_that_cannot_be_shown(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><link rel='icon' href='data:,'><div style='height: 9000px'></div><img src='gone.png' loading='lazy'>"
    )
    browser.open(page)
    assert browser.problems() == []
    assert browser.broken_pictures() == [(tmp_path / "gone.png").as_uri()]
    browser.reset()
