"""Pages opened as a person opens them, from the file system: in silence, whole, legible, and within reach of the keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.browser.chromium import WINDOW, Browser
from tests.browser.page_checks import (
    broken_links,
    controls_out_of_reach,
    open_quietly,
    overlapping_labels,
    pale_texts,
    small_texts,
)

HEAD = "<!DOCTYPE html><title>a page</title><link rel='icon' href='data:,'>"


def pages_of(folder: Path) -> list[Path]:
    pages = sorted(folder.rglob("*.html"))
    assert folder / "index.html" in pages
    return pages


def test_every_page_of_the_report_opens_without_complaint_or_request(browser: Browser, report_pages: Path) -> None:
    for page in pages_of(report_pages):
        open_quietly(browser, page)
        assert browser.run("return document.readyState") == "complete"
        assert broken_links(browser, page) == []


def test_the_report_fits_the_window(browser: Browser, report_pages: Path) -> None:
    for page in pages_of(report_pages):
        browser.open(page)
        assert browser.run("return document.documentElement.scrollWidth") <= WINDOW[0], page
        with Image.open(browser.screenshot("page")) as image:
            assert image.width == WINDOW[0]


def test_texts_of_the_report_are_large_dark_and_apart_enough(browser: Browser, report_pages: Path) -> None:
    for page in pages_of(report_pages):
        browser.open(page)
        assert small_texts(browser) == [], page
        assert pale_texts(browser) == [], page
        assert overlapping_labels(browser) == [], page


def test_the_keyboard_reaches_every_control_of_the_report(browser: Browser, report_pages: Path) -> None:
    for page in pages_of(report_pages):
        browser.open(page)
        assert controls_out_of_reach(browser) == ([], []), page


def test_an_opened_bag_can_be_read_and_used_by_keyboard(browser: Browser, report_pages: Path) -> None:
    browser.open(report_pages / "consistency/index.html")
    browser.run("document.querySelector('#table .open').click()")
    assert browser.run("return document.getElementById('bag').open")
    assert small_texts(browser) == []
    assert pale_texts(browser) == []
    unreached, without_ring = controls_out_of_reach(browser)
    assert [name for name in unreached if 'id="bag-' in name] == []  # those behind the open bag must not be reached
    assert without_ring == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>console.warn('odd')</script>", "console WARNING"),
        ("<script>nothing.here()</script>", "console SEVERE"),
        ("<img src='gone.png'>", "gone.png"),
        ("<img src='http://example.org/image.png'>", "request: http://example.org/image.png"),
        ("<script>fetch('https://example.org/data').catch(() => 0)</script>", "request: https://example.org/data"),
    ],
)
def test_the_harness_sees_what_a_page_must_not_do(browser: Browser, tmp_path: Path, body: str, said: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(HEAD + body)
    browser.open(page)
    assert said in " ".join(browser.problems())
    browser.reset()


def test_the_harness_names_a_image_that_cannot_be_shown(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(HEAD + "<div style='height: 9000px'></div><img src='gone.png' loading='lazy'>")
    browser.open(page)
    assert browser.problems() == []
    assert browser.broken_images() == [(tmp_path / "gone.png").as_uri()]
    browser.reset()


def test_the_harness_names_what_people_cannot_read_or_reach(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        HEAD
        + "<p style='font-size: 10px'>tiny <b>words</b></p><p style='color: #888'>pale</p><p style='color: #555a'>thin</p>"
        + "<div style='background: #333'><p>lost</p><p style='color: #fff'>fine</p></div><p hidden>unseen</p>"
        + "<svg viewBox='0 0 100 10' width='50'><text y='9' font-size='16' fill='#000'>drawn</text></svg>"
        + "<svg width='200' height='50'><text y='20'>first</text><text x='10' y='22'>second</text><text y='45'>third</text></svg>"
        + "<button tabindex='0' style='outline: none'>bare</button><button disabled>off</button><a href='gone.html'>to nowhere</a>"
        + "<a href='#there' id='there'>here</a><a href='#away'>away</a>"
        + "<button onkeydown='event.preventDefault()'>trap</button><input id='behind' aria-label='behind'>"
    )
    browser.open(page)
    assert small_texts(browser) == ["10.0 px: tiny", "10.0 px: words", "8.0 px: drawn"]
    assert [text.split(": ")[1] for text in pale_texts(browser)] == ["pale", "thin", "lost"]
    assert overlapping_labels(browser) == ["first / second"]
    assert broken_links(browser, page) == [f"page.html: {tmp_path.as_uri()}/gone.html", f"page.html: {page.as_uri()}#away"]
    unreached, without_ring = controls_out_of_reach(browser)
    assert [name[:18] for name in unreached] == ['<input id="behind"']
    assert ["bare" in name for name in without_ring] == [True]
