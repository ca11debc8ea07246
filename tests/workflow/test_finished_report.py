"""The report of a finished run: its pages in a real browser, and what Snakemake's own report carries of them."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cdgmae.paper import PAPER_TABLES
from tests.browser.chromium import Browser
from tests.browser.page_checks import (
    MAX_BYTES,
    broken_links,
    controls_out_of_reach,
    open_quietly,
    overlapping_labels,
    pale_texts,
    small_texts,
)
from tests.workflow.conftest import ROOT, Workplace

pytestmark = pytest.mark.slow


def files_below(folder: Path) -> dict[str, Path]:
    """Path below `folder` -> file, without Snakemake's own marks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".snakemake_timestamp")
    return {path.relative_to(folder).as_posix(): path for path in files}


def test_pages_open_in_a_browser_without_complaint_network_or_dead_link(finished: Workplace, browser: Browser) -> None:
    pages = [*(finished.folder / "results/report").rglob("*.html"), *(finished.folder / "results/tables").glob("*.html")]
    assert len(pages) > len(PAPER_TABLES)
    for page in sorted(pages):
        open_quietly(browser, page)
        assert broken_links(browser, page) == []


def test_pages_can_be_read_and_used_by_keyboard(finished: Workplace, browser: Browser) -> None:
    for page in sorted((finished.folder / "results").rglob("*.html")):
        browser.open(page)
        assert small_texts(browser) == [], page
        assert pale_texts(browser) == [], page
        assert overlapping_labels(browser) == [], page
        assert controls_out_of_reach(browser) == ([], []), page


def test_the_report_is_small(finished: Workplace) -> None:
    assert 0 < sum(path.stat().st_size for path in files_below(finished.folder / "results/report").values()) < MAX_BYTES


@pytest.fixture(scope="module")
def snakemakes_report(finished: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked folder of `snakemake --report report.zip all tables`."""
    folder = tmp_path_factory.mktemp("unpacked")
    done = finished.run("--report", str(folder / "report.zip"), "all", "tables")
    assert done.returncode == 0, done.stderr[-3000:]
    with zipfile.ZipFile(folder / "report.zip") as archive:
        archive.extractall(folder)
    return folder / "report"


def listed(report: Path, variable: str) -> dict[str, Any]:
    """What the report's page knows: `categories` (category -> subcategory -> files), `results` (file -> its result)."""
    found = re.search(rf"^\s*var {variable} = (\{{.+\}});?$", (report / "report.html").read_text(), re.MULTILINE)
    assert found is not None, variable
    return json.loads(found.group(1))  # type: ignore[no-any-return]


def test_snakemakes_report_has_a_category_per_stage_with_its_tables(snakemakes_report: Path) -> None:
    categories = {
        name: [file for files in parts.values() for file in files]
        for name, parts in listed(snakemakes_report, "categories").items()
    }
    expected = {
        "Shards": ["results/shards/demo/summary.csv"],
        "Views": ["results/generators/s_ldm/metrics.parquet"],
        "Consistency": ["results/consistency/summary.csv"],
        "Pre-training": [f"results/pretrain/{run}/seed0/metrics.parquet" for run in ("conditioning", "crops", "cdg")],
        "Propagation": [
            "results/propagation/summary.csv",
            *(f"results/propagation/{name}/{clips}.parquet" for name in ("random", "crops", "cdg") for clips in ("davis", "vip", "jhmdb")),
        ],
        "Paper tables": [f"results/tables/{name}.{kind}" for name in PAPER_TABLES for kind in ("html", "csv")],
    }  # fmt: skip
    assert categories["Report"][0] == "results/report/index.html"
    assert {name: sorted(files) for name, files in categories.items() if name != "Report"} == {
        name: sorted(files) for name, files in expected.items()
    }
    every = [file for files in categories.values() for file in files]
    assert len(every) == len(set(every))


def test_everything_in_snakemakes_report_is_there_whole_and_has_a_caption(snakemakes_report: Path, finished: Workplace) -> None:
    captions = [re.split(r"[`:\n]", path.read_text(), maxsplit=1)[0] for path in (ROOT / "workflow/report").glob("*.rst")]
    results = listed(snakemakes_report, "results")
    for name, result in results.items():
        assert (snakemakes_report / result["data_uri"]).read_bytes() == (finished.folder / name).read_bytes(), name
        assert any(words in result["caption"] for words in captions), name
    used = "".join(result["caption"] for result in results.values())
    assert [words for words in captions if words not in used] == []


def test_the_pages_in_snakemakes_report_are_the_whole_folder_and_open(
    snakemakes_report: Path, finished: Workplace, browser: Browser
) -> None:
    index = snakemakes_report / listed(snakemakes_report, "results")["results/report/index.html"]["data_uri"]
    expected, found = files_below(finished.folder / "results/report"), files_below(index.parent)
    assert {name: path.read_bytes() for name, path in found.items()} == {
        name: path.read_bytes() for name, path in expected.items()
    }
    for page in sorted(index.parent.rglob("*.html")):
        open_quietly(browser, page)
        assert broken_links(browser, page) == []
