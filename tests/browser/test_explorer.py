"""The consistency explorer used as a person uses it: sort, filter, brush, open a bag, point at a patch, and all of it by keyboard."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.consistency.consistency_summary import summarise
from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.report.page import write_report
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.report import ReportJobSettings
from tests.browser.chromium import Browser
from tests.report.fake_results import CONTENTS, NASTY, ON_CPU, SIZE, FakeResults

pytestmark = pytest.mark.slow

PATCHES_TO_A_SIDE = 6


@pytest.fixture(scope="module")
def explorer_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explorer of made-up results with all nearest patches stored."""
    pytest.importorskip("selenium")
    fake = FakeResults(tmp_path_factory.mktemp("explorer") / "results")
    fake.write_images()
    fake.write_scores(nearest_bags=6)
    write_report(ReportJobSettings(contents=CONTENTS, title=NASTY), fake.root, fake.root / "report")
    return fake.root / "report" / "consistency" / "index.html"


@pytest.fixture(scope="module")
def two_sources_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explorer of two sources made from the same real images."""
    pytest.importorskip("selenium")
    fake = FakeResults(tmp_path_factory.mktemp("two") / "results")
    fake.write_images()
    fake.write_scores()
    folder, tables = fake.root / "consistency", []
    for number in range(2):
        tables.append(folder / "crops" / f"{number:05d}.parquet")
        real = fake.root / "shards" / "demo" / f"{number:05d}.tar"
        settings = ScoringSettings(image_size=SIZE, max_bad_fraction=0.5)
        score_shard(settings, real, None, parse_encoder("pixels:8"), tables[-1], source="crops", runtime=ON_CPU)
    summarise([*tables, *(folder / "s_ldm").glob("*.parquet")], folder / "summary.parquet", folder / "summary.csv")
    contents = CONTENTS.model_copy(update={"scored": {"s_ldm": 2, "crops": 2}})
    write_report(ReportJobSettings(contents=contents, title="Two"), fake.root, fake.root / "report")
    return fake.root / "report" / "consistency" / "index.html"


@pytest.fixture
def data(explorer_page: Path) -> dict[str, Any]:
    """What the page was given."""
    script = (explorer_page.parent / "data.js").read_text()
    read: dict[str, Any] = json.loads(script.removeprefix("const explorerData = ").removesuffix(";\n"))
    return read


@pytest.fixture
def page(browser: Browser, explorer_page: Path) -> Browser:
    """The explorer, opened, its charts drawn."""
    browser.open(explorer_page)
    wait(browser, lambda: browser.run("return document.body.dataset.charts") == "drawn")
    return browser


def wait(browser: Browser, holds: Callable[[], object]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser.driver, 10, 0.05).until(lambda _: holds())


def column(browser: Browser, name: str) -> list[str]:
    """Texts of one column of the table."""
    script = """const places = [...document.querySelectorAll('#table thead th')].map(cell => cell.dataset.column);
        return [...document.querySelectorAll('#table tbody tr')].map(row => row.cells[places.indexOf(arguments[0])].textContent)"""
    return list(browser.run(script, name))


def click(browser: Browser, selector: str) -> None:
    from selenium.webdriver.common.by import By

    browser.driver.find_element(By.CSS_SELECTOR, selector).click()


def type_into(browser: Browser, selector: str, text: str) -> None:
    from selenium.webdriver.common.by import By

    field = browser.driver.find_element(By.CSS_SELECTOR, selector)
    field.clear()
    field.send_keys(text)


def press(browser: Browser, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser.driver).send_keys(*keys).perform()


def drag(browser: Browser, selector: str, start: float, end: float, height: float = 0.0) -> None:
    """Drag over an element from one share of its width to another, and down by a share of its height."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    element = browser.driver.find_element(By.CSS_SELECTOR, selector)
    width, down = element.size["width"], int(height * element.size["height"] / 2)
    actions = ActionChains(browser.driver).move_to_element_with_offset(element, int((start - 0.5) * width), -20 - down)
    half = int((end - start) * width / 2)
    actions.click_and_hold().move_by_offset(half, down).move_by_offset(half, down)
    actions.release().perform()


def test_headings_sort_the_table_both_ways(page: Browser) -> None:
    for name in ("gs", "ls", "nps", "disagreement"):
        click(page, f"#table th[data-column={name}] button")
        values = [float(text) for text in column(page, name)]
        if page.run(f"return document.querySelector('th[data-column={name}]').ariaSort") == "descending":
            values.reverse()
        assert values == sorted(values)
        click(page, f"#table th[data-column={name}] button")
        assert len(set(values)) > 3
        assert [float(text) for text in column(page, name)] != values
    click(page, "#table th[data-column=key] button")
    assert column(page, "key") == sorted(column(page, "key"))


def test_filters_keep_what_they_say_and_are_cleared_together(page: Browser, data: dict[str, Any]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    total = len(data["bags"])
    Select(page.driver.find_element(By.ID, "filter-rule")).select_by_value("lowest")
    wait(page, lambda: len(column(page, "key")) < total or all("lowest" in bag["rules"] for bag in data["bags"]))
    assert set(column(page, "key")) == {bag["key"] for bag in data["bags"] if "lowest" in bag["rules"]}
    type_into(page, "#filter-key", "N1_")
    wait(page, lambda: all(key.startswith("n1_") for key in column(page, "key")))
    click(page, "#filters button[type=reset]")
    wait(page, lambda: len(column(page, "key")) == total)
    type_into(page, "#nps-from", "0.9")
    press(page, "\ue007")
    wait(page, lambda: set(column(page, "key")) == {bag["key"] for bag in data["bags"] if bag["nps"] >= 0.9})
    words = shlex.split(page.run("return document.getElementById('command').textContent"))
    assert words[:3] == ["cdgmae", "consistency", "query"]
    assert "nps >= 0.9 and" in words[3]
    answer = CliRunner().invoke(app, ["consistency", *words[2:-2], "--json"])
    assert answer.exit_code == 0, answer.output
    pairs = [pair for bag in data["bags"] for pair in bag["pairs"]]
    assert json.loads(answer.stdout)["matches"] == sum((pair["nps"] or 0) >= 0.9 for pair in pairs)
    assert page.run("return explorer.charts.nps.signal('brush_x').length") == 2
    click(page, "#nps-clear")
    wait(page, lambda: len(column(page, "key")) == total)


def test_brushing_one_chart_filters_the_others_and_the_table(page: Browser, data: dict[str, Any]) -> None:
    def kept(metric: str) -> int:
        return int(page.run(f"return explorer.charts.{metric}.data('kept').reduce((sum, bar) => sum + bar.bags, 0)"))

    assert (kept("gs"), kept("nps")) == (12, 12)
    drag(page, "#chart-ls svg", 0.08, 0.6)
    wait(page, lambda: kept("gs") < 12)
    low, high = page.run("return explorer.filter.ranges.ls")
    inside = {bag["key"] for bag in data["bags"] if low <= bag["ls"] <= high}
    assert 0 < len(inside) < 12
    assert kept("gs") == kept("nps") == kept("ls") == len(inside)
    assert set(column(page, "key")) == inside
    assert page.run("return document.getElementById('ls-from').valueAsNumber") == low
    drag(page, "#chart-nps svg", 0.08, 0.4)
    wait(page, lambda: page.run("return explorer.filter.ranges.nps") is not None)
    ranges = page.run("return explorer.filter.ranges")
    wait(page, lambda: len(column(page, "key")) <= len(inside))
    assert ranges["ls"] == [low, high]
    assert set(column(page, "key")) == inside & {
        bag["key"] for bag in data["bags"] if ranges["nps"][0] <= bag["nps"] <= ranges["nps"][1]
    }
    page.driver.set_window_size(1000, 900)
    assert page.run("return explorer.filter.ranges") == ranges
    click(page, "#filters button[type=reset]")
    wait(page, lambda: kept("gs") == 12)


def test_a_rectangle_in_the_scatter_keeps_its_bags_and_follows_the_ranges(page: Browser, data: dict[str, Any]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    def points() -> list[str]:
        return list(page.run("return explorer.charts.scatter.data('kept').map(bag => bag.key)"))

    assert len(points()) == 12
    drag(page, "#scatter canvas", 0.2, 0.7, height=0.5)
    wait(page, lambda: page.run("return explorer.filter.ranges.ls !== null && explorer.filter.ranges.nps !== null"))
    ranges = page.run("return explorer.filter.ranges")
    inside = {
        bag["key"] for bag in data["bags"] if all(ranges[name][0] <= bag[name] <= ranges[name][1] for name in ("ls", "nps"))
    }
    wait(page, lambda: set(column(page, "key")) == inside == set(points()))
    assert 0 < len(inside) < 12
    Select(page.driver.find_element(By.ID, "scatter-x")).select_by_value("nps")
    wait(page, lambda: page.run("return document.getElementById('scatter-y').value") == "gs" and len(points()) == len(inside))
    assert page.run("return explorer.filter.ranges") == ranges
    wait(page, lambda: page.run("return explorer.charts.scatter.signal('brush_x').length") == 2)
    click(page, "#filters button[type=reset]")
    wait(page, lambda: len(points()) == 12)


def test_the_selection_is_saved_as_csv(page: Browser, data: dict[str, Any]) -> None:
    type_into(page, "#nps-from", "0.9")
    press(page, "\ue007")
    chosen = {bag["key"] for bag in data["bags"] if bag["nps"] >= 0.9}
    assert 0 < len(chosen) < 12
    wait(page, lambda: f"({len(chosen)} bags)" in page.run("return document.getElementById('download').textContent"))
    page.run("HTMLAnchorElement.prototype.click = function() { window.saved = this; }")
    click(page, "#download")
    assert page.run("return saved.download") == "selection.csv"
    text = page.driver.execute_async_script("fetch(saved.href).then(it => it.text()).then(arguments[0])")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["key"] for row in rows} == chosen
    for row in rows:
        bag = next(bag for bag in data["bags"] if bag["key"] == row["key"])
        assert (row["source"], row["class_name"], float(row["nps"]), row["chosen_as"].split()) == (
            "s_ldm", "n0144", bag["nps"], bag["rules"],
        )  # fmt: skip


def test_the_same_keys_of_two_sources_stand_side_by_side(browser: Browser, two_sources_page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    script = (two_sources_page.parent / "data.js").read_text()
    data = json.loads(script.removeprefix("const explorerData = ").removesuffix(";\n"))
    of_source = {
        source["name"]: dict(zip(source["sample"]["key"], source["sample"]["ls"], strict=True)) for source in data["sources"]
    }
    names = list(of_source)
    assert len(names) == 2
    browser.open(two_sources_page)
    wait(browser, lambda: browser.run("return document.body.dataset.charts") == "drawn")
    Select(browser.driver.find_element(By.ID, "pair-metric")).select_by_value("ls")
    both = of_source[names[0]].keys() & of_source[names[1]].keys()
    differences = {key: of_source[names[0]][key] - of_source[names[1]][key] for key in both}
    wait(browser, lambda: "mean LS" in browser.driver.find_element(By.ID, "pair-text").text)
    points = browser.run("return explorer.charts.pair.data('kept')")
    assert {point["key"]: (point["first"], point["second"]) for point in points} == {
        key: (of_source[names[0]][key], of_source[names[1]][key]) for key in both
    }
    text = browser.driver.find_element(By.ID, "pair-text").text
    first, second = (list(values) for values in zip(*((point["first"], point["second"]) for point in points), strict=True))
    higher = sum(difference > 0 for difference in differences.values()) / len(both)
    assert text.startswith(
        f"{len(both)} real images: mean LS {sum(first) / len(both):.3f} in {names[0]} and {sum(second) / len(both):.3f} in {names[1]}"
    )
    assert f"for {100 * higher:.0f} %" in text
    assert f"correlation {statistics.correlation(first, second):.2f}." in text
    rows = browser.run(
        "return [...document.querySelectorAll('#pair-table tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    order = [abs(float(row[3])) for row in rows]
    assert order == sorted(order, reverse=True)
    assert {row[0]: float(row[3]) for row in rows} == {
        key: pytest.approx(differences[key], abs=2e-3) for key in {row[0] for row in rows}
    }
    assert browser.run("return document.querySelectorAll('#pair-table tbody img').length") == 2 * len(rows) > 0
    click(browser, "#pair-table tbody tr:first-child td:nth-child(3) .open")
    assert browser.run("return document.getElementById('bag-title').textContent") == rows[0][0]
    assert f"Source {names[1]}" in browser.run("return document.getElementById('bag-scores').textContent")
    assert browser.problems() == []


def test_a_patch_lights_up_its_nearest_patch_in_every_view(page: Browser, data: dict[str, Any]) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    click(page, "#table tbody .open")
    key = page.driver.find_element(By.ID, "bag-title").text
    bag = next(bag for bag in data["bags"] if bag["key"] == key)
    good = [pair for pair in bag["pairs"] if "nearest" in pair]
    assert len(good) == 2
    captions = [element.text for element in page.driver.find_elements(By.CSS_SELECTOR, "#bag-images figcaption")]
    assert captions[0] == "real image"
    assert captions[1].startswith(f"view 1\nGS {good[0]['gs']:.3f}, LS {good[0]['ls']:.3f}, NPS {good[0]['nps']:.3f}")
    box = page.driver.find_element(By.CSS_SELECTOR, ".image.patches")
    step = box.size["width"] / PATCHES_TO_A_SIDE
    row, place = 1, 4
    offset = (int((place + 0.5 - PATCHES_TO_A_SIDE / 2) * step), int((row + 0.5 - PATCHES_TO_A_SIDE / 2) * step))
    ActionChains(page.driver).move_to_element_with_offset(box, *offset).perform()
    assert lit(page) == {0: (place, row), **{pair["b"]: where(pair, row * PATCHES_TO_A_SIDE + place) for pair in good}}
    status = page.driver.find_element(By.ID, "bag-status").text
    assert status.startswith("Patch at row 2, column 5 of the real image. Nearest in view 1: row ")
    assert f"similarity {good[0]['similarity'][row * PATCHES_TO_A_SIDE + place] / 100:.2f}" in status
    page.run("const colour = document.getElementById('bag-colour'); colour.value = '1'; colour.dispatchEvent(new Event('input'))")
    heat = page.run("return [...document.querySelectorAll('.heat')].map(patch => patch.getAttribute('fill'))")
    assert len(heat) == PATCHES_TO_A_SIDE**2
    order = sorted(range(len(heat)), key=lambda patch: good[0]["similarity"][patch])
    assert len({heat[patch] for patch in order}) == len(set(good[0]["similarity"]))
    lightness = [sum(map(int, heat[patch][4:-1].split())) for patch in order]
    assert lightness == sorted(lightness)


def lit(page: Browser) -> dict[int, tuple[int, int]]:
    """View -> (column, row) of its lit patch."""
    script = """return [...document.querySelectorAll('#bag-images figure')].flatMap(figure => [...figure.querySelectorAll('.lit')].map(
        patch => [figure.dataset.view, patch.getAttribute('x'), patch.getAttribute('y')].map(Number)))"""
    return {view: (x, y) for view, x, y in page.run(script)}


def where(pair: dict[str, Any], patch: int) -> tuple[int, int]:
    row, place = divmod(pair["nearest"][patch], PATCHES_TO_A_SIDE)
    return place, row


def test_everything_can_be_reached_by_keyboard(page: Browser) -> None:
    reached = []
    for _ in range(40):
        press(page, "\ue004")
        reached.append(page.run("const e = document.activeElement; return e.id || e.className || e.textContent"))
        outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
        if reached[-1] == "open":
            break
    for control in ("Overview", "gs-from", "nps-to", "ls-clear", "filter-source", "filter-key", "Clear all", "LS", "open"):
        assert any(control == name.split(" \u25b2")[0] for name in reached), (control, reached)
    press(page, "\ue007")
    assert page.run("return document.getElementById('bag').open")
    for _ in range(6):
        if page.run("return document.activeElement.classList.contains('patches')"):
            break
        press(page, "\ue004")
    assert lit(page)[0] == (3, 3)
    press(page, "\ue014", "\ue015", "\ue015")
    assert lit(page)[0] == (4, 5)
    press(page, "\ue00c")
    assert not page.run("return document.getElementById('bag').open")
    assert page.run("return document.activeElement.className") == "open"


def test_next_goes_through_the_table_in_its_order(page: Browser) -> None:
    keys = column(page, "key")
    click(page, "#table tbody tr:nth-child(2) .open")
    click(page, "#bag-next")
    assert page.run("return document.getElementById('bag-title').textContent") == keys[2]
    for _ in range(3):
        click(page, "#bag-previous")
    assert page.run("return document.getElementById('bag-title').textContent") == keys[0]


def test_a_bad_view_is_shown_with_its_reason(page: Browser) -> None:
    type_into(page, "#filter-key", "n1_0")
    wait(page, lambda: column(page, "key") == ["n1_0"])
    click(page, "#table tbody .open")
    text = page.run("return document.getElementById('bag-images').innerText")
    assert "no image: view: not finite" in text
    assert "not scored: view: not finite" in text


def test_keys_classes_and_reasons_are_shown_as_text(browser: Browser, explorer_page: Path, tmp_path: Path) -> None:
    odd = """<img src=x onerror="document.title='run'">'"&\\"""
    shutil.copytree(explorer_page.parent.parent, tmp_path / "report")
    script = tmp_path / "report" / "consistency" / "data.js"
    text = script.read_text()
    for word in ('"n1_0"', '"n0144"', '"view: not finite"'):
        assert word in text
        text = text.replace(word, json.dumps(odd))
    script.write_text(text)
    browser.open(script.parent / "index.html")
    wait(browser, lambda: browser.run("return document.body.dataset.charts") == "drawn")
    assert column(browser, "key").count(odd) == 1
    assert set(column(browser, "class")) == {odd}
    type_into(browser, "#filter-key", "<img")
    wait(browser, lambda: column(browser, "key") == [odd])
    click(browser, "#table tbody .open")
    assert browser.run("return document.getElementById('bag-title').textContent") == odd
    assert f"not scored: {odd}" in browser.run("return document.getElementById('bag-images').textContent")
    assert browser.run("return document.title") != "run"
