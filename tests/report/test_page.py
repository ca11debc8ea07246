"""The page as a whole: what it shows, what it says is missing, and that it is whole, safe and the same every time."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fake_results import CONTENTS, NASTY, SCORES, FakeResults
from PIL import Image
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.report.bag_thumbnails import show_bags
from cdgmae.report.page import write_report
from cdgmae.report.stages import score_tables
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.report import ReportContents, ReportJobSettings, ReportSettings
from cdgmae.settings.runtime import RuntimeSettings

ON_CPU = RuntimeSettings(device="cpu")

VOID = {"meta", "link", "img", "br", "input"}


class PageReader(HTMLParser):
    """Collects text, links and tags, and checks that every tag is closed."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.source = page.read_text(encoding="utf-8")
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        assert not self._open, f"not closed: {self._open}"

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses.extend(value for name in ("src", "href") if (value := values.get(name)) is not None)
        self.anchors.update(value for name, value in attrs if name == "id" and value)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.words.append(data)


def write(results: Path, output: Path, **changes: Any) -> tuple[dict[str, Any], PageReader]:
    result = write_report(ReportJobSettings(**{"title": "Made-up results", "contents": CONTENTS, **changes}), results, output)
    return result, PageReader(output / "index.html")


@pytest.fixture(scope="module")
def page(whole_results: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], PageReader, Path]:
    """The page of all stages."""
    output = tmp_path_factory.mktemp("page")
    return *write(whole_results, output), output


def test_every_stage_and_its_numbers_are_shown(page: tuple[dict[str, Any], PageReader, Path], whole_results: Path) -> None:
    result, reader, _ = page
    summary = pq.read_table(whole_results / "consistency" / "summary.parquet").to_pylist()[0]
    expected = [
        "Made-up results", "12 images", "24 views", "24 pairs scored", "3 runs", "3 encoders on 3 evaluation sets",
        "generator s_ldm abc123, sampler ddim, steps 20, guidance 3", f"{summary['nps_mean']:.3f}", f"± {summary['ls_std']:.3f}",
        "cdg 36.0 37.0 35.0 14.0 18.8 39.0", "random (random weights) 30.0", "pretext cross_view, num_anchors 2",
        "n1_0.3 not finite", "not scored: view: not finite", '"num_bags": 240', '"top_k": 7', "pixels8",
    ]  # fmt: skip
    for words in expected:
        assert re.sub(r"\s+", " ", words) in reader.text.replace(" ,", ","), words
    assert result["missing"] == []


def test_papers_tables_stand_beside_ours_and_are_labelled(page: tuple[dict[str, Any], PageReader, Path]) -> None:
    text = page[1].text
    for words in ("Paper, Table 1", "Video frames 0.991 0.405 0.885", "Paper, Table 9", "RCG S-LDM 0.951 0.299 0.735"):
        assert words in text
    assert "CDG-MAE-a3, ViT-S/16, ImageNet-1K, 100 epochs 62.6 59.7 65.5 38.1 47.8 76.3" in text
    assert "Paper, Table 5" in text
    assert "not comparable" in text


def test_an_encoder_below_random_weights_is_said_openly(page: tuple[dict[str, Any], PageReader, Path]) -> None:
    result, reader, _ = page
    assert result["verdict"] == (
        "Not every trained encoder is above random weights. Those that are not: crops on VIP mIoU (level) and cdg on JHMDB PCK@0.1 (-1.2)."
    )
    assert result["verdict"] in reader.text
    assert "JHMDB PCK@0.1 18.8, below random weights (20.0) by 1.2." in reader.text
    assert "3 of DAVIS, 3 of VIP, 3 of JHMDB. With so few, a difference of a point or two may be chance." in reader.text


def test_bags_are_shown_with_thumbnails_from_lowest_to_highest_nps(page: tuple[dict[str, Any], PageReader, Path]) -> None:
    result, reader, output = page
    ranks = [int(rank) for rank in re.findall(r"rank (\d+) of 12", reader.text)]
    means = [float(mean) for mean in re.findall(r"mean NPS (\d\.\d+)", reader.text)]
    assert result["bags"] == len(ranks) == 8
    assert (ranks[0], ranks[-1]) == (1, 12)
    assert ranks == sorted(ranks)
    assert means == sorted(means)
    thumbnails = [address for address in reader.addresses if address.endswith(".jpg")]
    assert len(thumbnails) == 8 * 3
    for address in thumbnails:
        assert max(Image.open(output / address).size) <= 128


def test_pairs_of_two_views_and_crops_do_not_change_the_shown_bags(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_images()
    fake.write_scores()
    bags = [show_bags(score_tables(fake.root, "s_ldm", 2), fake.root, "s_ldm", ReportSettings(), tmp_path)]
    fake.write_scores(pairs="all")
    bags.append(show_bags(score_tables(fake.root, "s_ldm", 2), fake.root, "s_ldm", ReportSettings(), tmp_path))
    assert bags[0] == bags[1] is not None
    real_tar, crops = fake.root / "shards" / "demo" / "00000.tar", fake.root / "consistency" / "crops" / "00000.parquet"
    score_shard(ScoringSettings(image_size=32), real_tar, None, parse_encoder("pixels:8"), crops, source="crops", runtime=ON_CPU)
    assert show_bags(score_tables(fake.root, "crops", 2), fake.root, "crops", ReportSettings(), tmp_path) is None


def test_page_is_static_and_needs_nothing_from_outside(page: tuple[dict[str, Any], PageReader, Path]) -> None:
    _, reader, output = page
    assert "script" not in reader.tags
    assert not re.search(r"https?:|@import|url\(", reader.source)
    for address in reader.addresses:
        if address.startswith("#"):
            assert address[1:] in reader.anchors
        elif address != "data:,":
            assert (output / address).is_file(), address


def test_what_comes_from_outside_is_escaped(
    page: tuple[dict[str, Any], PageReader, Path], whole_results: Path, tmp_path: Path
) -> None:
    assert NASTY not in page[1].source
    assert NASTY in page[1].text
    _, titled = write(whole_results, tmp_path, title=NASTY)
    assert NASTY not in titled.source


def test_equal_results_give_equal_bytes(
    page: tuple[dict[str, Any], PageReader, Path], whole_results: Path, tmp_path: Path
) -> None:
    write(whole_results, tmp_path)
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} for folder in (page[2], tmp_path)
    )
    assert first == second


def test_writing_again_leaves_no_thumbnails_behind_and_other_files_alone(whole_results: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write(whole_results, tmp_path, num_bags=8)
    _, reader = write(whole_results, tmp_path, num_bags=1)
    assert re.findall(r"rank (\d+) of 12", reader.text) == ["6"]
    assert len(list((tmp_path / "figures").rglob("*.jpg"))) == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_stages_that_were_not_run_are_named(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_runs()
    result, reader = write(fake.root, tmp_path)
    assert result["missing"] == ["shards", "views", "consistency", "propagation"]
    for stage in result["missing"]:
        assert f"Stage {stage} has not been run" in reader.text
        assert f"snakemake {stage} --cores 2" in reader.text
    assert "Nothing yet: the encoders have not been judged" in reader.text
    assert "crops, seed 0" in reader.text


def test_what_the_configuration_does_not_name_is_not_shown(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_all()
    first, whole = write(fake.root, tmp_path / "whole")
    shutil.copytree(fake.root / "pretrain/cdg", fake.root / "pretrain/foreign_run")
    shutil.copytree(fake.root / "shards/demo", fake.root / "shards/foreign_data")
    shutil.copytree(fake.root / "generators/s_ldm", fake.root / "generators/foreign_generator")
    (fake.root / "views/foreign_source").mkdir()
    (fake.root / "views/foreign_source/00000.tar").write_bytes(b"no shard")
    shutil.copy(fake.root / "consistency/s_ldm/00000.parquet", fake.root / "consistency/s_ldm/00002.parquet")
    second, again = write(fake.root, tmp_path / "again")
    assert (first | {"output": ""}, whole.text) == (second | {"output": ""}, again.text)
    fewer = CONTENTS.model_copy(update={"runs": {"crops": [0]}, "encoders": ["random", "crops"], "scored": {}})
    result, reader = write(fake.root, tmp_path / "fewer", contents=fewer)
    assert (result["bags"], result["explorer_bags"], result["missing"]) == (0, 0, ["consistency"])
    assert "nothing configured" in reader.text
    assert "Not run" not in reader.text
    assert "has not been run. Run it" not in reader.text
    pages = [
        path.read_text()
        for path in (tmp_path / "fewer").rglob("*")
        if path.suffix in (".html", ".js") and path.parent.name != "assets"
    ]
    assert not any(re.search(r"\bcdg\b(?! )", page) for page in pages)


def test_what_is_named_and_was_not_run_is_said_item_by_item(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_all()
    more = ReportContents(
        datasets={"demo": 3, "lab": 1}, views={"s_ldm": 2, "knn": 2}, scored={"s_ldm": 2, "knn": 2}, generators=["s_ldm", "second"],
        runs={"crops": [0, 1], "cdg": [0, 10]}, encoders=[*SCORES, "late"], sets={"davis": "davis"},
    )  # fmt: skip
    result, reader = write(fake.root, tmp_path, contents=more)
    assert result["missing"] == []
    lacking = {"shards": "lab", "views": "knn; second", "consistency": "knn", "pretrain": "crops, seed 1", "propagation": "late"}
    for stage, names in lacking.items():
        assert f"Not run in stage {stage}: {names}." in reader.text
    assert "demo 2 of 3" in reader.text
    assert "Not run, or not to its end: crops, seed 1" in PageReader(tmp_path / "pretrain/index.html").text


def test_an_evaluation_set_that_is_not_named_is_not_shown_and_one_without_scores_is_said(
    fake: FakeResults, tmp_path: Path
) -> None:
    fake.write_all()
    result, reader = write(fake.root, tmp_path, contents=CONTENTS.model_copy(update={"sets": {"davis": "davis", "lab": "davis"}}))
    assert "VIP mIoU" not in reader.text.partition("Paper, Table 5")[0]
    assert "VIP" not in result["verdict"]
    assert "Not run in stage propagation: random on lab; crops on lab; cdg on lab." in reader.text


def test_images_that_are_gone_are_said_to_be_gone(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_images()
    fake.write_scores()
    shutil.rmtree(fake.root / "shards")
    (fake.root / "views" / "s_ldm" / "00001.tar").unlink()
    result, reader = write(fake.root, tmp_path)
    assert "no image: shards/demo/00000.tar is not there" in reader.text
    assert "no image: shards/demo/00001.tar and views/s_ldm/00001.tar are not there" in reader.text
    assert result["bags"] == 8


def test_no_results_at_all_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds nothing that the configuration names, of any stage; run `snakemake"):
        write_report(ReportJobSettings(contents=CONTENTS), tmp_path / "nowhere", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_broken_table_is_named_and_leaves_no_page(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_runs()
    (fake.root / "propagation").mkdir()
    (fake.root / "propagation" / "summary.parquet").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"propagation/summary\.parquet cannot be read"):
        write_report(ReportJobSettings(contents=CONTENTS), fake.root, tmp_path / "report")
    assert not (tmp_path / "report" / "index.html").exists()


def test_command_writes_the_page_as_the_rule_calls_it(whole_results: Path, tmp_path: Path) -> None:
    arguments = [
        "write", "--settings", ReportJobSettings(num_bags=2, contents=CONTENTS).canonical_json(), "--results",
        str(whole_results),
    ]  # fmt: skip
    result = CliRunner().invoke(app, ["report", *arguments, "--output", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output.splitlines()[-1])
    assert printed["output"] == str(tmp_path / "index.html")
    assert printed["bags"] == 2
    assert 0.5 < printed["megabytes"] < 2


def test_command_shows_what_the_configuration_names(whole_results: Path, tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "config.yaml"
    arguments = ["write", "--config", str(config), "--results", str(whole_results), "--output", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, ["report", *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["missing"] == []
    text = PageReader(tmp_path / "index.html").text
    assert "CDG-MAE on the embedded demo" in text
    assert "Not run in stage pretrain: conditioning, seed 0." in text
    assert "cdg, seed 10" not in (tmp_path / "pretrain/data.js").read_text()
    assert "cdg, seed 0" in (tmp_path / "pretrain/data.js").read_text()
