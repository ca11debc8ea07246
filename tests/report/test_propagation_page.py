"""The page on propagation: scores of single sequences restated, worst first, bounded strips, and what it says is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_results import NASTY, SCORES, FakeResults

from cdgmae.propagation.benchmarks.benchmark import SIZE_COLUMNS
from cdgmae.propagation.benchmarks.benchmark_kinds import benchmark_of
from cdgmae.propagation.measures.score_table import table_schema
from cdgmae.report.pages.propagation import strip_images as strips_module
from cdgmae.report.pages.propagation.propagation_page import write_propagation_page
from cdgmae.report.pages.propagation.sequences import SetScores, read_sequences
from cdgmae.report.pages.propagation.strip_images import show_strips, worst_in_turn
from cdgmae.report.propagation_scores import EncoderScores, read_scores
from cdgmae.settings.report import ReportJobSettings
from cdgmae.storage.tables import write_table

HITS = [f"hits_0.{tenth}" for tenth in range(1, 6)]


def write_rows(
    folder: Path, encoder: str, name: str, rows: list[dict[str, Any]], kind: str | None = None, metadata: Any = None
) -> None:
    common = {"encoder": encoder, "set": name, "kind": kind or name, "frames": 10, "protocol": "{}", "encoder_digest": "d",
              **dict.fromkeys(SIZE_COLUMNS, 64)}  # fmt: skip
    full = [{**common, "item_name": str(row["item"]), **row} for row in rows]
    write_table(folder / encoder / f"{name}.parquet", full, table_schema(kind or name), extra=metadata or {})


def write_page(results: Path, output: Path, **settings: Any) -> tuple[str, dict[str, Any]]:
    """The page and its data."""
    write_propagation_page(ReportJobSettings(**settings), results, output, read_scores(results / "propagation"))
    script = (output / "propagation/data.js").read_text()
    data: dict[str, Any] = json.loads(script.removeprefix("const propagationData = ").removesuffix(";\n"))
    return (output / "propagation/index.html").read_text(), data


def scores_of(**encoders: list[float | None]) -> SetScores:
    """Scores of sequences a, b, c, ... ."""
    names = "abcdefghijklmnop"
    scores = {encoder: dict(zip(names, values, strict=False)) for encoder, values in encoders.items()}
    return SetScores("davis", benchmark_of("davis"), dict.fromkeys(max(scores.values(), key=len), 14), scores, [])


def test_scores_of_single_sequences_are_literal(tmp_path: Path) -> None:
    objects = [("x", 1, 0.5, 0.7), ("x", 2, 0.1, 0.3), ("y", 1, 0.9, 0.8)]
    write_rows(
        tmp_path, "a", "davis",
        [{"sequence": name, "item": item, "J_mean": j, "F_mean": f} for name, item, j, f in objects],
    )  # fmt: skip
    parts = [("x", 0, 30, 40), ("x", 1, 10, 50), ("x", 2, 0, 0), ("y", 0, 7, 7), ("y", 1, 0, 0), ("y", 2, 0, 0)]
    rows = [{"sequence": name, "item": item, "intersection": both, "union": either} for name, item, both, either in parts]
    write_rows(tmp_path, "a", "vip", rows)
    write_rows(tmp_path, "b", "lab", [{"sequence": "w", "item": 1, "J_mean": 0.4, "F_mean": 0.5}], kind="davis")
    joints = [("x", 0, 4, 1), ("x", 1, 8, 8), ("x", 2, 0, 0), ("z", 0, 0, 0)]
    rows = [{"sequence": name, "item": item, "visible": seen, **dict.fromkeys(HITS, hit)} for name, item, seen, hit in joints]
    write_rows(tmp_path, "b", "jhmdb", rows)
    sets = {"davis": "davis", "vip": "vip", "jhmdb": "jhmdb", "lab": "davis"}
    encoders = [EncoderScores(name, "trained", {}, sets, {}, "", {}) for name in "ab"]
    davis, vip, jhmdb, lab = read_sequences(tmp_path, encoders)
    assert davis.scores == {"a": {"x": round(100 * ((0.5 + 0.1) / 2 + (0.7 + 0.3) / 2) / 2, 1), "y": 85.0}}
    assert vip.scores == {"a": {"x": round(100 * (30 / 40 + 10 / 50) / 2, 1), "y": 100.0}}
    assert jhmdb.scores == {"b": {"x": round(100 * (1 / 4 + 8 / 8) / 2, 1), "z": None}}
    assert (lab.label, lab.scores) == ("lab", {"b": {"w": 45.0}})
    assert (davis.missing, vip.missing, jhmdb.missing) == (["b"], ["b"], ["a"])
    assert davis.frames == {"x": 10, "y": 10}


def test_worst_sequences_come_first_and_unknown_ones_last() -> None:
    scores = scores_of(one=[30.0, None, 10.0, 30.0, 20.0])
    assert scores.worst_first("one") == ["c", "e", "a", "d", "b"]


def test_strips_are_taken_from_each_encoder_in_turn() -> None:
    scores = scores_of(one=[1.0, 2.0, 3.0, 4.0], two=[4.0, 1.0, 2.0, 3.0], three=[2.0, 1.0])
    assert list(worst_in_turn(scores)) == ["a", "b", "c", "d"]
    assert list(worst_in_turn(scores_of(one=[1.0, 2.0, 3.0], two=[3.0, 2.0, 1.0]))) == ["a", "c", "b"]


def test_strips_are_bounded_in_number_and_bytes(fake: FakeResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_of(one=[4.0, 3.0, 2.0, 1.0], two=[1.0, 2.0, 3.0, 4.0])
    folder = fake.root / "propagation"
    for encoder in ("one", "two"):
        fake.write_strips(encoder, "davis", "abcd")
    shown = show_strips(folder, scores, 3, tmp_path)
    assert list(shown.frames) == ["d", "a", "c"]
    assert shown.frames["d"] == [0, 7, 13]
    for encoder in ("one", "two"):
        for sequence, file in shown.files[encoder].items():
            assert (tmp_path / file).read_bytes() == (folder / encoder / "strips/davis" / f"{sequence}.jpg").read_bytes()
    one = sum((folder / encoder / "strips/davis/d.jpg").stat().st_size for encoder in ("one", "two"))
    for budget, count in ((1, 1), (int(1.5 * one), 1), (int(2.2 * one), 2)):
        monkeypatch.setattr(strips_module, "BUDGET", budget)
        assert len(show_strips(folder, scores, 3, tmp_path).frames) == count
        assert len(list((tmp_path / "strips/davis").iterdir())) == 2 * count


def test_page_shows_table_5_and_its_data(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_propagation(SCORES)
    page, data = write_page(fake.root, tmp_path)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "cdg 36.0 37.0 35.0 14.0 18.8 39.0" in text
    assert "CDG-MAE-a3, ViT-S/16, ImageNet-1K, 100 epochs 62.6 59.7 65.5 38.1 47.8 76.3" in text
    assert list(data["colours"]) == ["random", "crops", "cdg"]
    (davis,) = data["sets"]
    assert (davis["name"], davis["score"], davis["sequences"], davis["numFrames"]) == (
        "davis", "J&F", ["clip0", "clip1", "clip2"], [14, 14, 14],
    )  # fmt: skip
    assert davis["scores"] == {"random": [25.0, 35.0, 45.0], "crops": [45.0, 25.0, 35.0], "cdg": [35.0, 45.0, 25.0]}
    assert set(davis["strips"]["files"]) == {"random", "crops", "cdg"}
    for files in davis["strips"]["files"].values():
        assert all((tmp_path / "propagation" / file).is_file() for file in files.values())
    assert "<option selected>crops</option>" in page
    assert "All sequences are here." in page
    page, data = write_page(fake.root, tmp_path, num_strips=1)
    assert "Frames are here for 1 of 3 sequences" in page
    assert list(data["sets"][0]["strips"]["frames"]) == ["clip0"]


def test_what_is_missing_is_said(fake: FakeResults, tmp_path: Path) -> None:
    page, data = write_page(fake.root, tmp_path)
    assert "nothing matches results/propagation/summary.parquet" in page
    assert data["sets"] == []
    fake.write_propagation({"random": SCORES["random"], "cdg": {**SCORES["cdg"], "mIoU": None}})
    (fake.root / "propagation/random/strips/davis/strips.json").unlink()
    write_rows(fake.root / "propagation", "cdg", "vip", [{"sequence": "v", "item": 0, "intersection": 1, "union": 2}])
    page = re.sub(r"\s+", " ", write_page(fake.root, tmp_path)[0])
    assert ">not run</td>" in page
    assert "No frames of random: nothing matches results/propagation/random/strips/davis." in page
    assert "Not run: random." in page
    assert "Nothing matches results/propagation/*/jhmdb.parquet." in page
    assert "Nothing matches results/propagation/*/vip.parquet" not in page


def test_an_index_that_is_no_json_is_named(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_propagation(SCORES)
    (fake.root / "propagation/cdg/strips/davis/strips.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"strips\.json is not valid JSON .*delete it with `rm -r [^`]*/results/propagation/cdg/strips/davis`"
    ):
        write_page(fake.root, tmp_path)


def test_names_are_escaped(fake: FakeResults, tmp_path: Path) -> None:
    fake.write_propagation(SCORES)
    rows = [{"sequence": NASTY, "item": 1, "J_mean": 0.0, "F_mean": 0.0}]
    write_rows(fake.root / "propagation", "cdg", "davis", rows)
    page, data = write_page(fake.root, tmp_path, title=NASTY)
    assert NASTY not in page
    assert NASTY in data["sets"][0]["sequences"]


def test_encoders_are_compared_and_noise_is_called_noise(fake: FakeResults, tmp_path: Path) -> None:
    """Literal: on six sequences one encoder is better everywhere, another one by turns."""
    fake.write_propagation(SCORES)
    folder, places = fake.root / "propagation", "abcdef"
    cost = {"patch_size": 16, "parameters": 21_665_664, "gflops": 9.197}
    regions = {
        "random": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
        "cdg": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
        "crops": [0.5, 0.1, 0.7, 0.3, 0.6, 0.62],
    }
    for encoder, values in regions.items():
        rows = [{"sequence": name, "item": 1, "J_mean": v, "F_mean": v} for name, v in zip(places, values, strict=True)]
        write_rows(folder, encoder, "davis", rows, metadata={"encoder_cost": cost} if encoder == "cdg" else {})
    page, _ = write_page(fake.root, tmp_path)
    compared = (tmp_path / "encoders/index.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", compared))
    assert re.search(r"cdg results/\S+ 16 21\.7 9\.20 55\.0 \[4\d\.\d, 6\d\.\d\]", text)
    assert "random random:" in text
    assert "not recorded 45.0 [" in text
    assert re.search(r"6 sequences\. 2 of 3 differences may be noise: cdg and crops .*; crops and random", text)
    assert "<b>+10.0 [10.0, 10.0]</b><br>6 : 0</td>" in compared
    assert re.search(r"\+8\.0 \[-\d+\.\d, \d+\.\d\] noise<br>4 : 2</td>", compared)
    assert "2 of 3 differences between encoders may be noise" in re.sub(r"\s+", " ", page)
    write_rows(folder, "crops", "davis", [{"sequence": "a", "item": 1, "J_mean": 0.5, "F_mean": 0.5}])
    write_page(fake.root, tmp_path)
    assert "on other sequences, so not compared: crops." in (tmp_path / "encoders/index.html").read_text()
