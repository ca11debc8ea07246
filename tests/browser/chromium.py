"""Headless Chromium for tests: opens pages from the file system and keeps what they complain about and what they ask for."""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

WINDOW = (1280, 900)
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:")
"""Beginnings of addresses that need no network."""

PROGRAMS = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "chromedriver": ("chromedriver",)}


def find_programs() -> dict[str, str]:
    """Program -> its path, of those that are installed."""
    found = {name: next(filter(None, map(shutil.which, known)), None) for name, known in PROGRAMS.items()}
    return {name: path for name, path in found.items() if path}


def start_chromium(programs: dict[str, str], profile: Path) -> webdriver.Chrome:
    """A headless Chromium that reaches no other machine and logs every console message and request."""
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in (
        "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--disable-background-networking",
        "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to start as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    driver.set_page_load_timeout(60)
    driver.set_script_timeout(30)
    return driver


@dataclass
class Browser:
    """One window of 1280 x 900 pixels.

    Attributes:
        driver: Selenium's driver, for everything that has no method here.
        screenshots: Folder for `screenshot`.
    """

    driver: webdriver.Chrome
    screenshots: Path

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a file and wait until it is loaded and its charts are drawn; images further down may load later, see `broken_images`."""
        self.driver.get(page.resolve().as_uri() + fragment)
        drawn = "return [...document.querySelectorAll('.chart')].every(chart => chart.childNodes.length > 0)"
        WebDriverWait(self.driver, 20, 0.05).until(lambda _: self.run(drawn), f"a chart of {page} stays empty")

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript, with `return`, gives; its arguments are `arguments[0]` and so on."""
        return self.driver.execute_script(script, *arguments)

    def broken_images(self) -> list[str]:
        """Load every image of the page, also those that wait to be scrolled to, and name those that cannot be shown."""
        load = """const done = arguments[0];
            const images = [...document.images];
            images.forEach(image => { image.loading = "eager"; });
            Promise.allSettled(images.map(image => image.decode()))
                .then(ends => done(images.filter((_, index) => ends[index].status === "rejected").map(image => image.src)));"""
        return list(self.driver.execute_async_script(load))

    def problems(self) -> list[str]:
        """Console warnings and errors and requests that leave the machine, since the last call."""
        complaints = [
            f"console {entry['level']}: {entry['message']}"
            for entry in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
            if entry["level"] in ("WARNING", "SEVERE")
        ]
        return complaints + [f"request: {address}" for address in self._requests() if not address.startswith(LOCAL)]

    def screenshot(self, name: str) -> Path:
        """Save the whole page, however long, as `name`.png."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": WINDOW[0], "height": max(size["height"], 1), "scale": 1}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        path = self.screenshots / f"{name}.png"
        path.write_bytes(base64.b64decode(taken["data"]))
        return path

    def reset(self) -> None:
        """An empty page at the usual size, with nothing logged."""
        width, height = WINDOW
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get("about:blank")
        self.problems()

    def _requests(self) -> list[str]:
        """Addresses asked for, in order."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]  # type: ignore[no-untyped-call]
        addresses = []
        for event in events:
            if event["method"] == "Network.requestWillBeSent":
                addresses.append(event["params"]["request"]["url"])
            elif event["method"] == "Network.webSocketCreated":
                addresses.append(event["params"]["url"])
        return addresses
