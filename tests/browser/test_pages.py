"""The pages on pre-training and propagation used as a person uses them, by mouse and by keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.browser.chromium import Browser

pytestmark = pytest.mark.slow

RUNS = ["cdg, seed 0", "cdg, seed 10", "crops, seed 0"]
COLUMNS = ["loss", "learning_rate", "samples_per_second", "data_wait_share"]
LINES = "return document.querySelectorAll('#chart-' + arguments[0] + ' .mark-line path').length;"
BAND = "return document.querySelector('#chart-loss .mark-area path').getAttribute('opacity');"


def find(browser: Browser, selector: str) -> WebElement:
    return browser.driver.find_element(By.CSS_SELECTOR, selector)


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run(
        "return [...document.querySelectorAll(arguments[0])].map(found => found.textContent.trim())", selector
    )
    return found


def wait_for(browser: Browser, script: str, wanted: Any, *arguments: Any) -> None:
    """Charts are drawn again a moment after a control changes."""
    WebDriverWait(browser.driver, 20).until(lambda _: browser.run(script, *arguments) == wanted)


@pytest.fixture
def pretrain(browser: Browser, report_pages: Path) -> Browser:
    browser.open(report_pages / "pretrain/index.html")
    wait_for(browser, "return document.getElementById('runs').dataset.ready", "true")
    return browser


@pytest.fixture
def propagation(browser: Browser, report_pages: Path) -> Browser:
    browser.open(report_pages / "propagation/index.html")
    return browser


def test_check_boxes_show_and_hide_the_curves_of_runs(pretrain: Browser) -> None:
    for column in COLUMNS:
        assert pretrain.run(LINES, column) == 3
    boxes = pretrain.driver.find_elements(By.NAME, "run")
    assert [box.get_attribute("value") for box in boxes] == RUNS
    boxes[1].send_keys(Keys.SPACE)
    for column in COLUMNS:
        wait_for(pretrain, LINES, 2, column)
    find(pretrain, "#show-none").click()
    wait_for(pretrain, LINES, 0, "loss")
    boxes[0].send_keys(Keys.SPACE)
    wait_for(pretrain, LINES, 1, "loss")
    find(pretrain, "#show-all").send_keys(Keys.ENTER)
    wait_for(pretrain, LINES, 3, "loss")


def test_the_range_of_stretches_is_shown_on_request(pretrain: Browser) -> None:
    assert pretrain.run(BAND) == "0"
    find(pretrain, "#show-range").send_keys(Keys.SPACE)
    wait_for(pretrain, BAND, "0.2")


def test_pointing_at_a_curve_names_run_step_and_value(pretrain: Browser) -> None:
    chart = find(pretrain, "#chart-loss svg")
    ActionChains(pretrain.driver).move_to_element(chart).perform()
    wait_for(pretrain, "return document.querySelector('#vg-tooltip-element')?.classList.contains('visible') ?? false", True)
    assert texts(pretrain, "#vg-tooltip-element .key") == ["run", "step", "mean", "lowest", "highest"]
    run, step, mean, lowest, highest = texts(pretrain, "#vg-tooltip-element .value")
    assert run in RUNS
    first, last = step.split(" to ")
    assert int(last) == int(first) + 1
    assert float(lowest) <= float(mean) <= float(highest)


def test_a_slider_steps_through_the_panels_by_key(pretrain: Browser) -> None:
    slider, image = find(pretrain, ".slider input"), "document.querySelector('.panel-strip img')"
    state = f"return [document.querySelector('.slider output').textContent, {image}.src.split('-').at(-1), {image}.alt]"
    last = pretrain.run(state)
    assert last == ["300", "00000300.jpg", "Reconstructions of cdg, seed 0 after step 300"]
    slider.send_keys(Keys.ARROW_LEFT)
    assert pretrain.run(state) == ["225", "00000225.jpg", "Reconstructions of cdg, seed 0 after step 225"]
    slider.send_keys(Keys.HOME)
    assert pretrain.run(state)[0] == "75"
    assert slider.get_attribute("aria-valuetext") == "step 75"
    assert pretrain.broken_images() == []


def test_sequences_are_worst_first_for_the_chosen_encoder(propagation: Browser) -> None:
    rows, strips = "#bars-davis tbody .name", "#strips-davis h4"
    assert texts(propagation, rows) == ["clip1", "clip2", "clip0"]  # crops is the first trained encoder
    assert [title.split()[0] for title in texts(propagation, strips)] == ["clip1", "clip2", "clip0"]
    assert texts(propagation, "#bars-davis tbody tr:first-child .bar") == ["35.0random", "25.0crops", "45.0cdg"]
    choice = find(propagation, "#encoder")
    Select(choice).select_by_visible_text("cdg")
    assert texts(propagation, rows) == ["clip2", "clip0", "clip1"]
    assert texts(propagation, strips)[0] == "clip2 cdg: J&F 25.0, rank 1 of 3, 14 frames"
    choice.send_keys(Keys.ARROW_UP, Keys.ARROW_UP)
    assert texts(propagation, rows) == ["clip0", "clip1", "clip2"]


def test_bars_are_as_long_as_their_scores(propagation: Browser) -> None:
    lengths = "return [...document.querySelectorAll('#bars-davis tbody tr:first-child .bar i')].map(bar => bar.getBoundingClientRect().width)"
    random, crops, cdg = propagation.run(lengths)
    assert random / crops == pytest.approx(35 / 25, rel=0.01)
    assert cdg / crops == pytest.approx(45 / 25, rel=0.01)


def test_strips_of_all_encoders_are_shown_on_request(propagation: Browser) -> None:
    assert len(texts(propagation, "#strips-davis figure")) == 3
    assert texts(propagation, "#strips-davis figure:first-of-type .frames span")[:3] == [
        "frame 1: given labels",
        "frame 8",
        "frame 14",
    ]
    find(propagation, "#all-encoders").send_keys(Keys.SPACE)
    assert len(texts(propagation, "#strips-davis figure")) == 9
    assert texts(propagation, "#strips-davis section:first-child figure b") == [
        "random: J&F 35.0",
        "crops: J&F 25.0",
        "cdg: J&F 45.0",
    ]
    assert propagation.broken_images() == []
