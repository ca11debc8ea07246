"""The explorer's page: its data, its images, what it says when something is missing, and that nothing from outside becomes markup."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import CONTENTS, NASTY, SIZE, FakeResults
from PIL import Image

from cdgmae.consistency.consistency_summary import summarise
from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.report.page import write_report
from cdgmae.report.pages.explorer import explorer_bags
from cdgmae.report.pages.explorer.bag_selection import choose_source
from cdgmae.report.pages.explorer.explorer_bags import NO_ROOM, show_bags
from cdgmae.report.pages.explorer.explorer_page import write_explorer
from cdgmae.report.stages import score_tables
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.report import ReportJobSettings, ReportSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
from cdgmae.storage.tables import read_table

ON_CPU = RuntimeSettings(device="cpu")

PATCHES = 36
"""Patches of 8 x 8 pixels of the made-up images."""


def write(results: Path, output: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What `write_explorer` returns, the page's data and its text."""
    summary = results / "consistency" / "summary.parquet"
    rows = read_table(summary).to_pylist() if summary.is_file() else []
    tables = {row["source"]: score_tables(results, row["source"], 2) for row in rows}
    result = write_explorer(ReportSettings(**{"title": "Made-up", **changes}), results, output, rows, tables)
    script = (output / "consistency" / "data.js").read_text()
    assert script.startswith("const explorerData = {")
    data = json.loads(script.removeprefix("const explorerData = ").removesuffix(";\n"))
    return result, data, (output / "consistency" / "index.html").read_text()


@pytest.fixture
def scored(fake: FakeResults) -> FakeResults:
    """Images and scores, the nearest patches of two bags of each shard stored."""
    fake.write_images()
    fake.write_scores(nearest_bags=2)
    return fake


def test_bags_have_their_images_scores_class_and_nearest_patches(scored: FakeResults, tmp_path: Path) -> None:
    result, data, page = write(scored.root, tmp_path)
    assert result == {"explorer_bags": 12, "explorer_images": 12, "explorer_sample": 12}
    rows = [row for path in (scored.root / "consistency" / "s_ldm").glob("*.parquet") for row in read_table(path).to_pylist()]
    assert {bag["key"] for bag in data["bags"]} == {row["key"] for row in rows}
    for bag in data["bags"]:
        mine = [row for row in rows if row["key"] == bag["key"]]
        assert (bag["source"], bag["class"], bag["side"], bag["problem"]) == ("s_ldm", "n0144", SIZE // 8, None)
        assert [view["index"] for view in bag["views"]] == [0, *(row["view_b"] for row in mine)]
        assert bag["nps"] == pytest.approx(np.mean([row["nps"] for row in mine if row["nps"] is not None]), abs=1e-4)
        with Image.open(tmp_path / "consistency" / bag["strip"]) as strip:
            assert strip.size == (SIZE * len(bag["views"]), SIZE)
        for pair, row in zip(bag["pairs"], mine, strict=True):
            assert (pair["a"], pair["b"], pair.get("reason"), pair.get("nearest")) == (
                row["view_a"], row["view_b"], row["reason"], row["nearest_patches"]
            )  # fmt: skip
            assert pair.get("similarity", []) == [round(100 * value) for value in row["nearest_similarities"] or []]
    assert sum("nearest" in pair for bag in data["bags"] for pair in bag["pairs"]) == 8
    assert "12 of 12 bags are in the table" in page.replace("\n", " ")


def test_a_strip_shows_the_squares_that_were_compared(scored: FakeResults, tmp_path: Path) -> None:
    _, data, _ = write(scored.root, tmp_path, thumbnail_size=16)
    bag = data["bags"][0]
    loader, _ = explorer_bags._open_images(
        next((scored.root / "consistency" / "s_ldm").glob(f"0000{bag['key'][1]}.parquet")), scored.root
    )
    assert loader is not None
    with Image.open(tmp_path / "consistency" / bag["strip"]) as strip:
        assert strip.height == 16
        for place, image in enumerate(loader.load(bag["key"]).images):
            if image.image is not None:
                shown = np.asarray(strip.crop((16 * place, 0, 16 * place + 16, 16)), dtype=float)
                assert np.abs(shown - np.asarray(image.image.resize((16, 16), Image.Resampling.LANCZOS), dtype=float)).mean() < 12


def test_without_stored_nearest_patches_bags_are_shown_all_the_same(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_images()
    fake.write_scores()
    result, data, _ = write(fake.root, tmp_path)
    assert result["explorer_images"] == 12
    assert not any("nearest" in pair for bag in data["bags"] for pair in bag["pairs"])
    assert not any("patches" in bag["rules"] for bag in data["bags"])


def test_crops_are_drawn_again_from_the_real_images(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_images()
    folder = fake.root / "consistency"
    table = folder / "crops" / "00000.parquet"
    settings = ScoringSettings(image_size=32, nearest_bags=3)
    score_shard(
        settings, fake.root / "shards/demo/00000.tar", None, parse_encoder("pixels:8"), table, source="crops", runtime=ON_CPU
    )
    summarise([table], folder / "summary.parquet", folder / "summary.csv")
    _, data, _ = write(fake.root, tmp_path)
    assert len(data["bags"]) == 6
    for bag in data["bags"]:
        assert [view["index"] for view in bag["views"]] == [1, 2]
        assert [(pair["a"], pair["b"]) for pair in bag["pairs"]] == [(1, 2)]
        with Image.open(tmp_path / "consistency" / bag["strip"]) as strip:
            assert strip.size == (64, 32)


def test_bags_share_the_page_between_sources(scored: FakeResults, tmp_path: Path) -> None:
    folder = scored.root / "consistency"
    crops = folder / "crops" / "00000.parquet"
    settings = ScoringSettings(image_size=32)
    score_shard(
        settings, scored.root / "shards/demo/00000.tar", None, parse_encoder("pixels:8"), crops, source="crops", runtime=ON_CPU
    )
    summarise([crops, *sorted(folder.glob("s_ldm/*.parquet"))], folder / "summary.parquet", folder / "summary.csv")
    _, data, _ = write(scored.root, tmp_path, consistency_bags=10)
    counts = {source: sum(bag["source"] == source for bag in data["bags"]) for source in ("crops", "s_ldm")}
    assert counts["crops"] <= 4
    assert counts["s_ldm"] <= 5
    assert {bag["source"] for bag in data["bags"][:2]} == {"crops", "s_ldm"}
    assert {source["name"]: source["bags"] for source in data["sources"]} == {"crops": 6, "s_ldm": 12}


def test_images_end_where_the_budget_ends(scored: FakeResults, tmp_path: Path) -> None:
    summary = read_table(scored.root / "consistency" / "summary.parquet").to_pylist()[0]
    choice = choose_source(score_tables(scored.root, "s_ldm", 2), summary, 20, 20)
    assert choice is not None
    everything = show_bags(choice.bags, scored.root, tmp_path / "whole", 48, 10**9)
    sizes = [
        (tmp_path / "whole" / bag["strip"]).stat().st_size + len(json.dumps(bag["pairs"], separators=(",", ":")))
        for bag in everything
    ]
    shown = show_bags(choice.bags, scored.root, tmp_path / "part", 48, sum(sizes[:5]))
    assert [bag["strip"] is not None for bag in shown] == [True] * 5 + [False] * 7
    assert {bag["problem"] for bag in shown[5:]} == {NO_ROOM}
    assert all(bag["pairs"] == [] and bag["nps"] is not None for bag in shown[5:])
    assert sum(path.stat().st_size for path in (tmp_path / "part").rglob("*.jpg")) <= sum(sizes[:5])


def test_what_is_gone_is_said(scored: FakeResults, tmp_path: Path) -> None:
    shutil.rmtree(scored.root / "shards")
    (scored.root / "views" / "s_ldm" / "00001.tar").unlink()
    result, data, page = write(scored.root, tmp_path)
    assert result["explorer_images"] == 0
    assert {bag["problem"] for bag in data["bags"]} == {
        "shards/demo/00000.tar is not there",
        "shards/demo/00001.tar and views/s_ldm/00001.tar are not there",
    }
    assert {bag["class"] for bag in data["bags"]} == {"n0144"}
    assert "0 of the 12 bags have images" in page.replace("\n", " ")


def test_a_bag_that_its_shard_no_longer_holds_is_said(scored: FakeResults, tmp_path: Path) -> None:
    key = "n0_2"
    for folder in ("shards/demo", "views/s_ldm"):
        with ImageShardWriter(scored.root / folder / "00000.tar") as writer:
            image = io.BytesIO()
            Image.new("RGB", (SIZE, SIZE)).save(image, format="PNG")
            for view in (0,) if folder.startswith("shards") else (1, 2):
                writer.add_image(ImageRow(key, view, extension="png", width=SIZE, height=SIZE), image.getvalue())
            writer.commit(settings_digest="other")
    _, data, _ = write(scored.root, tmp_path)
    problems = {bag["key"]: bag["problem"] for bag in data["bags"] if bag["key"].startswith("n0")}
    assert problems.pop(key) is None
    assert set(problems.values()) == {"its shard no longer holds this bag"}


def test_shards_that_no_longer_fit_the_scores_are_said(scored: FakeResults, tmp_path: Path) -> None:
    with ImageShardWriter(scored.root / "shards/demo/00001.tar") as writer:
        writer.commit(settings_digest="other")
    _, data, _ = write(scored.root, tmp_path)
    problems = {bag["key"][:2]: bag["problem"] for bag in data["bags"]}
    assert problems["n0"] is None
    assert "views without a real image: " in problems["n1"]


def test_writing_again_leaves_no_images_behind(scored: FakeResults, tmp_path: Path) -> None:
    write(scored.root, tmp_path)
    _, data, _ = write(scored.root, tmp_path, consistency_bags=5)
    left = {f"images/{path.name}" for path in (tmp_path / "consistency" / "images").iterdir()}
    assert left == {bag["strip"] for bag in data["bags"]}
    assert len(left) <= 5


def test_a_stage_that_was_not_run_has_a_page_that_says_so(fake: FakeResults, tmp_path: Path) -> None:
    _, data, page = write(fake.root, tmp_path)
    assert data["bags"] == data["sources"] == []
    assert "stage consistency has not been run" in page
    assert "<script" not in page


def test_nothing_from_outside_becomes_markup(fake: FakeResults, tmp_path: Path) -> None:
    nasty = f"</script>{NASTY}\u2028"
    fake.write_images()
    tar = fake.root / "shards" / "demo" / "00000.tar"
    with ImageShardWriter(tar) as writer:
        for index in range(6):
            image = io.BytesIO()
            Image.new("RGB", (SIZE, SIZE), (40 * index, 0, 0)).save(image, format="PNG")
            row = ImageRow(f"n0_{index}", 0, class_name=nasty, extension="png", width=SIZE, height=SIZE)
            writer.add_image(row, image.getvalue())
        writer.commit(settings_digest="made-up")
    fake.write_scores()
    _, data, page = write(fake.root, tmp_path, title=nasty)
    assert nasty in {bag["class"] for bag in data["bags"]}
    assert NASTY not in page
    assert "\u2028" not in (tmp_path / "consistency" / "data.js").read_text()


def test_the_report_holds_the_explorer_and_everything_it_names(whole_results: Path, tmp_path: Path) -> None:
    result = write_report(ReportJobSettings(contents=CONTENTS), whole_results, tmp_path)
    assert result["explorer_bags"] == 12
    page = (tmp_path / "consistency" / "index.html").read_text()
    addresses = [part.split('"')[0] for part in page.split('src="')[1:]] + [
        part.split('"')[0] for part in page.split('href="')[1:]
    ]
    for address in addresses:
        if address != "data:,":
            assert (tmp_path / "consistency" / address.split("#")[0]).is_file(), address
    assert "http:" not in page
    assert "https:" not in page
