"""The paper's tables beside ours: printed numbers, means over seeds, differences, what is missing, and the three files."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.consistency.consistency_summary import summarise
from cdgmae.consistency.score_tables import COMPARED
from cdgmae.paper import PAPER_TABLES
from cdgmae.propagation.benchmarks.benchmark import SIZE_COLUMNS
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS, benchmark_of, column_of
from cdgmae.propagation.benchmarks.jhmdb import HITS
from cdgmae.propagation.measures.score_table import table_schema
from cdgmae.report.table_cells import NOT_CONFIGURED, fill_table
from cdgmae.report.table_files import write_paper_table
from cdgmae.settings.report import TableSettings
from cdgmae.storage.tables import write_table
from tests.report.fake_results import FakeResults

ROOT = Path(__file__).parents[2]
HEADLINES = ("J&F", "mIoU", "PCK@0.1")
VOID = {"meta", "link", "br", "img", "path", "use"}

PRINTED = {
    "table1": "Video frames 0.991 0.405 0.885 | Diffusion (S-LDM) 0.991 0.384 0.794 | K-nn images 0.955 0.310 0.722 | "
    "Random images 0.894 0.181 0.605",
    "table3_target": "Always real 61.3 37.1 46.8 | Always generated 60.0 37.1 46.5 | Real or generated 61.2 37.6 46.5 | "
    "k-nn image 60.5 36.0 46.5",
    "table3_masking": "75 % 60.0 34.9 46.2 | 90 % 61.2 37.6 46.5 | 98.5 % 60.7 35.5 44.4",
    "table4": "1 0 61.2±0.0 37.6±0.4 46.5±0.3 | 2 0 62.0±0.1 37.6±0.1 47.1±0.2 | 2 25 % 62.4±0.2 38.0±0.3 47.3±0.1 | "
    "2 50 % 62.1±0.1 38.1±0.2 47.8±0.1 | 3 25 % 62.6±0.1 38.1±0.1 47.8±0.2 | 3 50 % 62.0±0.4 37.4±0.3 47.5±0.2",
    "table5": "SiamMAE ViT-S/16 Kinetics-400 2000 62.0 60.3 63.7 37.3 47.0 76.1 | CropMAE ViT-S/16 ImageNet-1K 100 59.7 56.9 62.5 33.8 "
    "43.9 72.3 | CDG-MAE-a1 ViT-S/16 ImageNet-1K 100 61.2 58.1 64.3 37.6 46.5 75.5 | CDG-MAE-a3 ViT-S/16 ImageNet-1K 100 62.6 59.7 65.5 "
    "38.1 47.8 76.3 | MAE ViT-B/16 ImageNet-1K 1600 53.5 52.1 55.0 28.1 44.6 73.4 | VideoMAE ViT-S/16 Kinetics-400 800 39.3 39.7 38.9 "
    "23.3 41.0 67.9 | MAE-ST ViT-L/16 Kinetics-400 800 54.6 55.5 53.6 33.2 44.4 72.5",
    "table8": "1 0 % 61.2±0.0 37.6±0.4 46.5±0.3 6.0 | 2 0 % 62.0±0.1 37.6±0.1 47.1±0.2 10.4 | 2 25 % 62.4±0.2 38.0±0.3 47.3±0.1 8.3 | "
    "2 50 % 62.1±0.1 38.1±0.2 47.8±0.1 6.1 | 3 25 % 62.6±0.1 38.1±0.1 47.8±0.2 11.6 | 3 50 % 62.0±0.4 37.4±0.3 47.5±0.2 8.3 | "
    "4 25 % 62.3 37.6 47.6 14.9 | 4 50 % 61.7 37.4 47.6 10.6",
    "table9": "Video frames 0.991 0.405 0.885 | Gen-SIS S-LDM 0.991 0.384 0.794 | RCG S-LDM 0.951 0.299 0.735",
    "table10": "Gen-SIS S-LDM 61.2 37.6 46.5 | RCG S-LDM 57.4 34.8 43.7",
}
"""Every number that the paper prints, retyped from its pages."""


def write_scores(
    results: Path, encoder: str, davis: float | None = None, vip: float | None = None, jhmdb: float | None = None
) -> None:
    """Tables of one encoder whose scores are the given percentages (J&F; mIoU; PCK at every distance)."""
    common = {
        "encoder": encoder,
        "sequence": "clip",
        "item": 1,
        "item_name": "1",
        "frames": 9,
        "protocol": "{}",
        "encoder_digest": "d",
        **dict.fromkeys(SIZE_COLUMNS, 64),
    }
    hits = {name: None if jhmdb is None else round(10 * jhmdb) for name in HITS}
    measured: dict[str, tuple[float | None, dict[str, Any]]] = {
        "davis": (davis, {"J_mean": (davis or 0) / 100 - 0.01, "F_mean": (davis or 0) / 100 + 0.01}),
        "vip": (vip, {"intersection": round(10 * (vip or 0)), "union": 1000}),
        "jhmdb": (jhmdb, {"visible": 1000, **hits}),
    }
    for kind, (score, columns) in measured.items():
        if score is not None:
            row = {**common, "set": kind, "kind": kind, **columns}
            write_table(results / "propagation" / encoder / f"{kind}.parquet", [row], table_schema(kind))


def fill(name: str, results: Path, sets: dict[str, str] | None = None, **rows: list[str]) -> dict[str, Any]:
    settings = TableSettings(rows=rows, num_shards={"s_ldm": 2}, sets=sets or {})
    return {row.paper.name: row for row in fill_table(PAPER_TABLES[name], settings, results)}


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_numbers_are_the_papers(name: str) -> None:
    table = PAPER_TABLES[name]
    shown = []
    for row in table.rows.values():
        numbers = [row.printed[column] for column in table.columns]
        texts = [
            f"{n.value:.{table.digits}f}" + ("" if n.deviation is None else f"±{n.deviation:.{table.digits}f}") for n in numbers
        ]
        shown.append(" ".join([*row.labels, *texts]))
    assert " | ".join(shown) == PRINTED[name]


def test_every_row_has_a_label_for_each_heading_and_all_numbers_of_the_table_or_none() -> None:
    for table in PAPER_TABLES.values():
        assert all(len(row.labels) == len(table.headings) for row in table.rows.values())
        assert all(set(row.printed) in (set(), set(table.columns)) for row in table.rows.values())
        assert all(bool(row.run) == (table.name == "table8") for row in table.rows.values())


def test_a_run_has_the_same_numbers_wherever_the_paper_prints_it() -> None:
    a1, a3 = PAPER_TABLES["table5"].rows["cdg_a1"], PAPER_TABLES["table5"].rows["cdg_a3"]
    same = {"table3_target": {"random": a1}, "table3_masking": {"r90": a1}, "table4": {"a1": a1, "a3_r25": a3}, "table8": {"a1": a1, "a3_r25": a3},
            "table10": {"gen_sis": a1}, "figure4": {"cdg_16": a1}, "figure9": {"cdg_100": a1}}  # fmt: skip
    for name, rows in same.items():
        for row, known in rows.items():
            printed = PAPER_TABLES[name].rows[row].printed
            assert {column: printed[column].value for column in HEADLINES} == {
                column: known.printed[column].value for column in HEADLINES
            }


def test_every_column_is_a_measure_of_its_stage() -> None:
    columns = {name: column for table in PAPER_TABLES.values() for name, column in table.columns.items()}
    measured = {kind: [column_of(kind, kind, measure.name) for measure in benchmark_of(kind).measures] for kind in BENCHMARKS}
    for name, column in columns.items():
        known = {"consistency": COMPARED, "pretrain": ["gflops"], "propagation": measured.get(column.kind or "", [])}
        assert name in known[column.stage], name


def test_figures_carry_the_numbers_that_table_5_prints_and_no_others() -> None:
    known = {"siammae_16", "cropmae_16", "cdg_16", "cropmae_100", "cdg_100"}
    for name in ("figure4", "figure9"):
        for row in PAPER_TABLES[name].rows.values():
            assert bool(row.printed) == (row.name in known)
    assert PAPER_TABLES["figure9"].rows["cropmae_100"].printed["mIoU"].value == 33.8


def test_mean_deviation_and_difference_over_three_seeds(tmp_path: Path) -> None:
    for name, score in (("a", 61.0), ("a_seed1", 62.0), ("a_seed2", 63.0)):
        write_scores(tmp_path, name, davis=score, vip=38.1)
    row = fill("table4", tmp_path, a3_r25=["a", "a_seed1", "a_seed2"])["a3_r25"]
    davis, vip, jhmdb = row.cells["J&F"], row.cells["mIoU"], row.cells["PCK@0.1"]
    assert (davis.ours, davis.deviation, davis.seeds, davis.missing) == (pytest.approx(62.0), pytest.approx(1.0), 3, "")
    assert davis.difference == pytest.approx(62.0 - 62.6)
    assert (vip.ours, vip.deviation, vip.difference) == (pytest.approx(38.1), pytest.approx(0.0), pytest.approx(0.0))
    assert (jhmdb.ours, jhmdb.deviation, jhmdb.difference, jhmdb.seeds) == (None, None, None, 0)
    assert jhmdb.missing.startswith("no results/propagation/a/jhmdb.parquet, no results/propagation/a_seed1/jhmdb.parquet")


def test_the_evaluation_set_that_stands_for_the_papers_is_named(tmp_path: Path) -> None:
    write_scores(tmp_path, "a", davis=60.0, vip=30.0)
    (tmp_path / "propagation/a/davis.parquet").rename(tmp_path / "propagation/a/published.parquet")
    cells = fill("table4", tmp_path, {"davis": "published"}, a1=["a"])["a1"].cells
    assert (cells["J&F"].ours, cells["mIoU"].ours) == (pytest.approx(60.0), pytest.approx(30.0))
    assert fill("table4", tmp_path, a1=["a"])["a1"].cells["J&F"].missing == "no results/propagation/a/davis.parquet"


def test_a_missing_seed_is_said_beside_the_mean_of_the_others(tmp_path: Path) -> None:
    write_scores(tmp_path, "a", davis=60.0)
    cell = fill("table4", tmp_path, a1=["a", "a_seed1"])["a1"].cells["J&F"]
    assert (cell.ours, cell.deviation, cell.seeds) == (pytest.approx(60.0), None, 1)
    assert cell.missing == "no results/propagation/a_seed1/davis.parquet"


def test_rows_without_a_name_are_not_configured(tmp_path: Path) -> None:
    cells = [cell for row in fill("table5", tmp_path).values() for cell in row.cells.values()]
    assert {cell.missing for cell in cells} == {NOT_CONFIGURED}
    assert all(cell.paper is not None and cell.difference is None for cell in cells)


def test_nothing_counted_is_no_number(tmp_path: Path) -> None:
    write_scores(tmp_path, "a", vip=0.0)
    rows = [{"encoder": "b", "set": "jhmdb", "kind": "jhmdb", **dict.fromkeys(SIZE_COLUMNS, 64), "sequence": "c", "item": 0, "item_name": "0",
             "frames": 1, "protocol": "{}",
             "encoder_digest": "d", "visible": 0, **dict.fromkeys(HITS, 0)}]  # fmt: skip
    write_table(tmp_path / "propagation/b/jhmdb.parquet", rows, table_schema("jhmdb"))
    assert fill("table10", tmp_path, rcg=["a"])["rcg"].cells["mIoU"].ours == 0.0
    cell = fill("table10", tmp_path, rcg=["b"])["rcg"].cells["PCK@0.1"]
    assert (cell.ours, cell.missing) == (None, "nothing could be measured")


def test_sources_come_from_their_own_score_tables(tmp_path: Path) -> None:
    fake = FakeResults(tmp_path)
    fake.write_images()
    fake.write_scores()
    folder = tmp_path / "consistency"
    summarise(sorted((folder / "s_ldm").glob("*.parquet")), tmp_path / "s.parquet", tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as file:
        summary = next(csv.DictReader(file))
    (folder / "summary.parquet").unlink()
    (folder / "s_ldm/00007.parquet").write_bytes(b"of another configuration")
    rows = fill("table9", tmp_path, gen_sis=["s_ldm"], rcg=["gone"])
    for metric, cell in rows["gen_sis"].cells.items():
        assert cell.ours == pytest.approx(float(summary[f"{metric}_mean"]), rel=1e-5)
    assert rows["rcg"].cells["gs"].missing == "no results/consistency/gone/*.parquet"
    assert rows["video"].cells["gs"].missing == NOT_CONFIGURED


def test_table_8_is_ours_by_formula(tmp_path: Path) -> None:
    write_scores(tmp_path, "a", davis=62.0)
    for name, row in fill("table8", tmp_path, a4_r50=["a"]).items():
        cell = row.cells["gflops"]
        assert abs(cell.difference) < 0.06
        assert cell.ours != cell.paper
        assert row.cells["J&F"].ours == (pytest.approx(62.0) if name == "a4_r50" else None)


class _Tree(HTMLParser):
    """Checks that every element is closed in order, and that every table row fills the grid."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.widths: list[int] = []
        self.links: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value for key in ("src", "href", "xlink:href") if (value := given.get(key)) and value[0] not in "#d"]
        if tag == "tr":
            self.widths.append(0)
        if tag in ("td", "th"):
            self.widths[-1] += int(given.get("colspan") or 1)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("name", sorted(PAPER_TABLES))
def test_three_files_of_every_table(tmp_path: Path, name: str) -> None:
    write_scores(tmp_path, "a", davis=55.5, vip=30.0, jhmdb=40.0)
    rows = {next(iter(PAPER_TABLES[name].rows)): ["a"]}
    result = write_paper_table(name, TableSettings(rows=rows), tmp_path, tmp_path / "tables")
    table = PAPER_TABLES[name]
    page = (tmp_path / "tables" / f"{name}.html").read_text()
    tree = _Tree(page)
    assert not tree.links
    assert ("<svg" in page) == name.startswith("figure")
    with (tmp_path / "tables" / f"{name}.csv").open() as file:
        cells = list(csv.DictReader(file))
    width, narrow = len(table.headings) + 1 + len(table.columns), 1 + len(table.columns)
    compared = {cell["row"] for cell in cells if cell["difference"]}
    filled = [3 if row in compared else 2 for row in table.rows]
    assert tree.widths == [width, *(part for lines in filled for part in [width, *[narrow] * (lines - 1)])]
    assert len(cells) == result["cells"] == len(table.rows) * len(table.columns)
    assert sum(cell["ours"] != "" for cell in cells) == result["filled"]
    assert all(cell["ours"] or cell["missing"] for cell in cells)
    lines = [line for line in (tmp_path / "tables" / f"{name}.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == len(table.rows) + 2
    assert len({line.count("|") for line in lines}) == 1


def test_cells_read_as_paper_ours_and_difference(tmp_path: Path) -> None:
    write_scores(tmp_path, "a", davis=60.0, vip=37.64)
    write_scores(tmp_path, "a_seed1", davis=61.0, vip=37.56)
    write_paper_table("table4", TableSettings(rows={"a1": ["a", "a_seed1"]}), tmp_path, tmp_path)
    assert (
        "| 1 | 0 | 61.2 ± 0.0 / 60.5 ± 0.7 (−0.7) | 37.6 ± 0.4 / 37.6 ± 0.0 (+0.0) | 46.5 ± 0.3 / no results"
        in (tmp_path / "table4.md").read_text()
    )
    page = (tmp_path / "table4.html").read_text()
    assert "report.tables.table4, as workflow/experiments/table4.yaml does" in page
    assert '<td class="n">60.5 ± 0.7</td>' in page
    assert '<td class="n">−0.7</td>' in page
    assert "1, 0; JHMDB PCK@0.1: no results/propagation/a/jhmdb.parquet, no results/propagation/a_seed1/jhmdb.parquet" in page


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    write_scores(tmp_path, "a", davis=60.0, vip=30.0, jhmdb=40.0)
    for folder in ("one", "two"):
        write_paper_table("figure4", TableSettings(rows={"cdg_8": ["a"]}), tmp_path, tmp_path / folder)
    for kind in ("csv", "md", "html"):
        assert (tmp_path / f"one/figure4.{kind}").read_bytes() == (tmp_path / f"two/figure4.{kind}").read_bytes()


def test_command_refuses_unknown_tables_and_rows_and_tells_what_it_wrote(tmp_path: Path) -> None:
    runner, place = CliRunner(), ["--results", str(tmp_path), "--output", str(tmp_path)]
    done = runner.invoke(app, ["report", "table", "table8", *place, "--config", str(ROOT / "config.yaml"), "--json"])
    assert done.exit_code == 0
    assert "results/propagation/cdg/davis.parquet" in (tmp_path / "table8.md").read_text()
    assert '"cells": 32, "filled": 8' in done.output
    with pytest.raises(ValueError, match=r"'table44' is no table of the paper; allowed: table1.*did you mean 'table4'"):
        runner.invoke(app, ["report", "table", "table44", *place], catch_exceptions=False)
    with pytest.raises(ValueError, match=r"--settings: tables\.table4\.a9: no such row; allowed: a1"):
        runner.invoke(app, ["report", "table", "table4", *place, "--settings", '{"rows": {"a9": ["x"]}}'], catch_exceptions=False)
