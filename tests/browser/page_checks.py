"""What every page of a report must keep: it opens in silence, its links lead somewhere, and people can read it and reach its controls."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.browser.chromium import Browser

MAX_BYTES = 15_000_000
"""Size of all pages of the demo's report together, with their images and scripts."""

SMALLEST_TEXT = 11
"""Pixels."""

LOWEST_CONTRAST = 4.5
"""Of text on its ground: level AA of the Web Content Accessibility Guidelines."""

SHOWN_TEXTS = """
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const shown = [];
    while (walker.nextNode()) {
        const owner = walker.currentNode.parentElement, words = walker.currentNode.data.trim();
        if (words && !owner.closest("script, style, noscript, option") && owner.checkVisibility({opacityProperty: true, visibilityProperty: true})) {
            shown.push([words.slice(0, 60), owner]);
        }
    }"""

SMALL_TEXTS = (
    SHOWN_TEXTS
    + """
    const scale = owner => owner instanceof SVGElement ? Math.hypot(owner.getScreenCTM().a, owner.getScreenCTM().b) : 1;
    return shown.map(([words, owner]) => [words, parseFloat(getComputedStyle(owner).fontSize) * scale(owner)])
        .filter(([, size]) => size < arguments[0] - 0.05).map(([words, size]) => `${size.toFixed(1)} px: ${words}`);"""
)

PALE_TEXTS = (
    SHOWN_TEXTS
    + """
    const parse = colour => {
        const [red, green, blue, alpha] = colour.match(/[\\d.]+/g).map(Number);
        return [red, green, blue, alpha ?? 1];
    };
    const over = (top, below) => [0, 1, 2].map(band => top[band] * top[3] + below[band] * (1 - top[3]));
    const ground = owner => {
        const layers = [];
        for (let element = owner; element; element = element.parentElement) {
            layers.push(parse(getComputedStyle(element).backgroundColor));
        }
        return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
    };
    const luminance = colour => colour.map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, band) => sum + value * [0.2126, 0.7152, 0.0722][band], 0);
    const contrast = owner => {
        const style = getComputedStyle(owner), below = ground(owner);
        const ink = over(parse(owner instanceof SVGElement ? style.fill : style.color), below);
        const [dark, light] = [luminance(ink), luminance(below)].sort((first, second) => first - second);
        return (light + 0.05) / (dark + 0.05);
    };
    return shown.filter(([, owner]) => !owner.closest(":disabled")).map(([words, owner]) => [words, contrast(owner)])
        .filter(([, value]) => value < arguments[0]).map(([words, value]) => `${value.toFixed(2)}: ${words}`);"""
)

OVERLAPPING_LABELS = """
    const found = [];
    for (const drawing of document.querySelectorAll("svg")) {
        const shown = label => label.textContent.trim() && label.checkVisibility({opacityProperty: true});
        const labels = [...drawing.querySelectorAll("text")].filter(shown)
            .map(label => [label.textContent.trim(), label.getBoundingClientRect()]);
        labels.forEach(([words, one], place) => labels.slice(place + 1).forEach(([others, two]) => {
            const width = Math.min(one.right, two.right) - Math.max(one.left, two.left);
            const height = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
            if (width > 1 && height > 3) found.push(`${words} / ${others}`);
        }));
    }
    return found;"""

WATCH_FOCUS = """
    window.reachedByKey = new Set();
    window.withoutRing = new Set();
    document.activeElement.blur();
    document.addEventListener("focusin", event => {
        const style = getComputedStyle(event.target);
        window.reachedByKey.add(event.target);
        if (style.outlineStyle === "none" && style.boxShadow === "none") window.withoutRing.add(event.target);
    });
    window.controls = [...document.querySelectorAll("button, select, input, textarea, summary, a[href], [tabindex='0']")]
        .filter(control => !control.disabled && control.type !== "hidden" && control.checkVisibility({visibilityProperty: true}))
        .filter(control => control.type !== "radio" || control.checked)
        .filter(control => control.tabIndex >= 0);
    return window.controls.length;"""

UNREACHED = """
    const name = control => control.outerHTML.slice(0, 100);
    return [window.controls.filter(control => !window.reachedByKey.has(control)).map(name), [...window.withoutRing].map(name)];"""

LINKS = "return [...document.querySelectorAll('[href], [src]')].map(owner => owner.href?.baseVal ?? (owner.href || owner.src));"


def open_quietly(browser: Browser, page: Path) -> None:
    """Open a page; all its images load, and neither they nor anything else complain or ask for another machine."""
    browser.open(page)
    assert browser.broken_images() == [], page
    assert browser.problems() == [], page


def broken_links(browser: Browser, page: Path) -> list[str]:
    """Addresses of an open page that lead to no file, or to no place on their page."""
    broken = []
    for address in dict.fromkeys(browser.run(LINKS)):
        parts = urlsplit(address)
        if parts.scheme == "file":
            target = Path(unquote(parts.path))
            fragment = unquote(parts.fragment)
            if not target.is_file() or (fragment and "=" not in fragment and not _has_place(target, fragment)):
                broken.append(f"{page.name}: {address}")
    return broken


def _has_place(page: Path, name: str) -> bool:
    return re.search(rf"""\bid=["']?{re.escape(name)}["'\s>]""", page.read_text(encoding="utf-8")) is not None


def small_texts(browser: Browser) -> list[str]:
    """Texts of the open page that are smaller than people should have to read."""
    return list(browser.run(SMALL_TEXTS, SMALLEST_TEXT))


def pale_texts(browser: Browser) -> list[str]:
    """Texts of the open page that stand out too little from their ground."""
    return list(browser.run(PALE_TEXTS, LOWEST_CONTRAST))


def overlapping_labels(browser: Browser) -> list[str]:
    """Pairs of labels of one drawing on the open page that lie on each other; boxes of lines may touch by 3 pixels."""
    return list(browser.run(OVERLAPPING_LABELS))


def controls_out_of_reach(browser: Browser) -> tuple[list[str], list[str]]:
    """Controls of the open page that the Tab key does not reach, and those that do not show that it reached them."""
    for _ in range(browser.run(WATCH_FOCUS) + 5):
        for kind in ("keyDown", "keyUp"):
            browser.driver.execute_cdp_cmd(
                "Input.dispatchKeyEvent", {"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
            )
    unreached, without_ring = browser.run(UNREACHED)
    return list(unreached), list(without_ring)
