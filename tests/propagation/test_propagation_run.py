"""The stage end to end on drawn clips: scores, table, predictions, continuing, read-only data, summary and commands."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from drawn_clips import snapshot, write_davis, write_jhmdb, write_vip
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.commands.propagation import read_protocol
from cdgmae.models.vit import build_vit
from cdgmae.paper import PAPER_TABLES
from cdgmae.propagation.benchmarks.benchmark import SIZE_COLUMNS
from cdgmae.propagation.benchmarks.benchmark_kinds import table_scores
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.benchmarks.jhmdb import PCK_COLUMNS, JhmdbProtocol
from cdgmae.propagation.benchmarks.vip import VipProtocol
from cdgmae.propagation.engine.frames import read_frame
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.propagation.measures.encoder_summary import summarise
from cdgmae.propagation.measures.score_table import table_schema
from cdgmae.propagation.output.table5_display import read_display, render_display
from cdgmae.settings.encoder import VitSettings, parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.tables import table_metadata

ON_CPU = RuntimeSettings(device="cpu")
PIXELS = "pixels:8"


def davis_protocol(root: Path) -> DavisProtocol:
    return DavisProtocol(root=str(root), input_size=(64, 96), radius=4.0)


def jhmdb_protocol(root: Path) -> JhmdbProtocol:
    return JhmdbProtocol(root=str(root), input_size=(64, 96))


def test_blocks_that_move_by_whole_patches_are_followed(tmp_path: Path) -> None:
    # one vote: raw pixels find the moved block; decoding from the grid rounds its corners off
    protocol = DavisProtocol(root=str(write_davis(tmp_path / "clips")), input_size=(64, 96), radius=4.0, top_k=1)
    scores = run_propagation(protocol, parse_encoder(PIXELS), tmp_path / "davis.parquet", runtime=ON_CPU, name="floor")
    assert list(scores) == ["J&F", "J", "F"]
    assert scores["J"] > 80
    assert scores["J&F"] == pytest.approx((scores["J"] + scores["F"]) / 2)


def test_static_joints_are_all_found_on_a_fine_grid(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path / "clips")
    scores = run_propagation(JhmdbProtocol(root=str(root)), parse_encoder(PIXELS), tmp_path / "t.parquet", runtime=ON_CPU)
    assert list(scores) == ["PCK@0.1", "PCK@0.2", "PCK@0.3", "PCK@0.4", "PCK@0.5"]
    assert set(scores.values()) == {100.0}
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert len(rows) == 2 * 15
    assert {row[name] for row in rows for name in PCK_COLUMNS} == {1.0}


def test_vit_small_8_uses_the_40_by_40_grid_and_finds_all_static_joints(tmp_path: Path) -> None:
    root = write_jhmdb(tmp_path / "clips", ("still",), frames=3)
    protocol, encoder = read_protocol("jhmdb", None, str(root)), 'random:{"patch_size": 8}'
    scores = run_propagation(protocol, parse_encoder(encoder), tmp_path / "t.parquet", runtime=ON_CPU, save_predictions=tmp_path)
    assert set(scores.values()) == {100.0}
    joints = pq.read_table(tmp_path / "joints/still.parquet").to_pylist()
    assert [joints[0]["cell_x"], joints[0]["cell_y"]] == pytest.approx([20 * 40 / 96, 13 * 40 / 64], abs=0.5)
    assert joints[0]["x"] == pytest.approx(joints[0]["cell_x"] * 96 / 40)


def test_the_table_holds_a_row_per_item_with_its_protocol(tmp_path: Path) -> None:
    protocol = davis_protocol(write_davis(tmp_path / "clips"))
    output = tmp_path / "results/davis.parquet"
    scores = run_propagation(protocol, parse_encoder(PIXELS), output, runtime=ON_CPU, name="floor", seed=2, set_name="lab")
    table = pq.read_table(output)
    assert table.schema.equals(table_schema("davis"))
    rows = table.to_pylist()
    assert [(row["sequence"], row["item"]) for row in rows] == [("one", 1), ("one", 2), ("two", 1), ("two", 2)]
    assert {(row["encoder"], row["seed"], row["set"], row["kind"], row["frames"]) for row in rows} == {
        ("floor", 2, "lab", "davis", 5)
    }
    assert {tuple(row[name] for name in SIZE_COLUMNS) for row in rows} == {(64, 96, 64, 96)}
    assert {row["protocol"] for row in rows} == {
        json.dumps({"name": "cropmae", **protocol.model_dump(mode="json")}, sort_keys=True)
    }
    assert table_scores(rows) == scores
    metadata = table_metadata(output)
    assert metadata["settings"] == protocol.digest()
    assert metadata["protocol"] == {"name": "cropmae", **protocol.model_dump(mode="json")}
    assert metadata["inputs"] == {PIXELS: "pixels8"}


def test_vip_counts_every_class_of_every_clip(tmp_path: Path) -> None:
    output = tmp_path / "vip.parquet"
    protocol = VipProtocol(root=str(write_vip(tmp_path / "clips")), input_size=96)
    scores = run_propagation(protocol, parse_encoder(PIXELS), output, runtime=ON_CPU)
    rows = pq.read_table(output).to_pylist()
    assert len(rows) == 2 * 20
    present = {row["item"] for row in rows if row["union"]}
    assert present == {0, 5, 10}
    for row in rows:
        assert row["IoU"] == (row["intersection"] / row["union"] if row["union"] else None)
    assert 0 < scores["mIoU"] <= 100


def test_predictions_are_written_on_request(tmp_path: Path) -> None:
    protocol = davis_protocol(write_davis(tmp_path / "clips"))
    run_propagation(
        protocol, parse_encoder(PIXELS), tmp_path / "davis.parquet", runtime=ON_CPU, save_predictions=tmp_path / "out"
    )
    masks = sorted((tmp_path / "out/masks/two").iterdir())
    assert [path.name for path in masks] == [f"{t:05d}.png" for t in range(5)]
    image = Image.open(masks[0])
    assert (image.mode, image.size) == ("P", (96, 64))
    assert set(np.unique(np.asarray(image))) == {0, 1, 2}
    jhmdb = jhmdb_protocol(write_jhmdb(tmp_path / "poses"))
    run_propagation(jhmdb, parse_encoder(PIXELS), tmp_path / "jhmdb.parquet", runtime=ON_CPU, save_predictions=tmp_path / "out")
    joints = pq.read_table(tmp_path / "out/joints/run_1.parquet").to_pylist()
    assert len(joints) == 4 * 15
    assert joints[16] | {"x": 0, "y": 0} == joints[16] | {
        "frame": 1,
        "joint": 1,
        "joint_name": "belly",
        "found": True,
        "x": 0,
        "y": 0,
    }
    assert joints[0]["x"] == pytest.approx(joints[0]["cell_x"] * 96 / 12)


class KilledError(Exception):
    pass


def test_an_interrupted_run_continues_with_the_missing_clips(tmp_path: Path) -> None:
    protocol = davis_protocol(write_davis(tmp_path / "clips", ("one", "two", "three")))
    whole, work = tmp_path / "whole.parquet", tmp_path / "work"
    expected = run_propagation(protocol, parse_encoder(PIXELS), whole, runtime=ON_CPU)
    output, done = tmp_path / "davis.parquet", []

    def kill_after_first(clip: str) -> None:
        done.append(clip)
        raise KilledError

    with pytest.raises(KilledError):
        run_propagation(protocol, parse_encoder(PIXELS), output, runtime=ON_CPU, work_dir=work, after_clip=kill_after_first)
    assert not output.exists()
    assert len(list(work.glob("*.jsonl"))) == 1
    assert (
        run_propagation(protocol, parse_encoder(PIXELS), output, runtime=ON_CPU, work_dir=work, after_clip=done.append)
        == expected
    )
    assert done == ["one", "two", "three"]
    assert pq.read_table(output).equals(pq.read_table(whole))
    assert not work.exists()


@pytest.mark.parametrize("change", ["protocol", "encoder", "data", "predictions", "overlays"])
def test_finished_clips_are_redone_when_what_made_them_changed(tmp_path: Path, change: str) -> None:
    root = write_davis(tmp_path / "clips")
    protocol, encoder, work = davis_protocol(root), parse_encoder(PIXELS), tmp_path / "work"

    def kill(clip: str) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        run_propagation(protocol, encoder, tmp_path / "t.parquet", runtime=ON_CPU, work_dir=work, after_clip=kill)
    predictions = overlays = None
    if change == "protocol":
        protocol = protocol.model_copy(update={"top_k": 3})
    elif change == "encoder":
        encoder = parse_encoder("pixels:16")
    elif change == "data":
        (root / "JPEGImages/480p/one/00001.jpg").write_bytes((root / "JPEGImages/480p/two/00001.jpg").read_bytes())
    elif change == "predictions":
        predictions = tmp_path / "out"
    else:
        overlays = tmp_path / "out"
    done: list[str] = []
    run_propagation(protocol, encoder, tmp_path / "t.parquet",
        runtime=ON_CPU, work_dir=work, after_clip=done.append, save_predictions=predictions, overlays=overlays,
    )  # fmt: skip
    assert done == ["one", "two"]


def test_nothing_is_written_into_a_read_only_data_folder(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "clips")
    for path in [root, *root.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    before = snapshot(root)
    run_propagation(
        davis_protocol(root), parse_encoder(PIXELS), tmp_path / "t.parquet", runtime=ON_CPU, work_dir=tmp_path / "work"
    )
    assert snapshot(root) == before
    for path in [root, *root.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_two_runs_give_the_same_table(tmp_path: Path) -> None:
    protocol = davis_protocol(write_davis(tmp_path / "clips"))
    for name in ("a", "b"):
        run_propagation(protocol, parse_encoder(PIXELS), tmp_path / f"{name}.parquet", runtime=ON_CPU)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_input_size_that_does_not_fit_the_encoder_stops_before_any_clip(tmp_path: Path) -> None:
    protocol = DavisProtocol(root=str(write_davis(tmp_path / "clips")), input_size=(60, 96))
    with pytest.raises(
        ValueError, match=r"clip one .* patch size 8; set input_size \(--settings input_size=...\) to 56x96 or 64x96"
    ):
        run_propagation(protocol, parse_encoder(PIXELS), tmp_path / "t.parquet", runtime=ON_CPU)


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    frame = tmp_path / "00003.jpg"
    frame.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"00003\.jpg cannot be read"):
        read_frame(frame)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("tables")
    davis, jhmdb = davis_protocol(write_davis(folder / "davis")), jhmdb_protocol(write_jhmdb(folder / "jhmdb"))
    made = []
    for name, set_name, protocol, encoder in [
        ("fine", "davis", davis, PIXELS), ("coarse", "davis", davis, "pixels:16"), ("fine", "jhmdb", jhmdb, PIXELS),
        ("fine", "lab", davis.model_copy(update={"top_k": 1}), PIXELS),
    ]:  # fmt: skip
        made.append(folder / name / f"{set_name}.parquet")
        run_propagation(protocol, parse_encoder(encoder), made[-1], runtime=ON_CPU, name=name, set_name=set_name)
    return made


def test_the_summary_has_a_row_per_encoder_set_and_measure(tables: list[Path], tmp_path: Path) -> None:
    result = summarise(tables, tmp_path / "summary.parquet", tmp_path / "summary.csv")
    assert (result["encoders"], result["tables"]) == (2, 4)
    rows = pq.read_table(tmp_path / "summary.parquet").to_pylist()
    measured = [(row["encoder"], row["set"], row["kind"], row["measure"]) for row in rows]
    davis, pck = ["J&F", "J", "F"], [f"PCK@{alpha}" for alpha in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert measured == [
        *(("fine", "davis", "davis", name) for name in davis), *(("coarse", "davis", "davis", name) for name in davis),
        *(("fine", "jhmdb", "jhmdb", name) for name in pck), *(("fine", "lab", "davis", name) for name in davis),
    ]  # fmt: skip
    for path in tables:
        scores = table_scores(pq.read_table(path).to_pylist())
        found = {row["measure"]: row["value"] for row in rows if (row["encoder"], row["set"]) == (path.parent.name, path.stem)}
        assert found == scores
    assert {
        (row["sequences"], row["scored_sizes"], row["unit"], row["encoder_settings"]) for row in rows if row["set"] == "lab"
    } == {(2, "96x64", "percent", '{"pixels": 8}')}
    assert {json.loads(row["protocol"])["top_k"] for row in rows if row["set"] == "lab"} == {1}


def test_the_wide_summary_keeps_the_paper_s_columns_and_prefixes_those_of_other_sets(tables: list[Path], tmp_path: Path) -> None:
    summarise(tables, tmp_path / "summary.parquet", tmp_path / "summary.csv")
    wide = pd.read_csv(tmp_path / "summary.csv")
    pck = [f"PCK@{alpha}" for alpha in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert list(wide.columns) == ["encoder", "J&F", "J", "F", *pck, "lab J&F", "lab J", "lab F"]
    assert list(wide["encoder"]) == ["fine", "coarse"]
    long = pq.read_table(tmp_path / "summary.parquet").to_pandas().set_index(["encoder", "set", "measure"])["value"]
    assert wide["J&F"].tolist() == pytest.approx([long["fine", "davis", "J&F"], long["coarse", "davis", "J&F"]], rel=1e-5)
    assert wide["lab F"][0] == pytest.approx(long["fine", "lab", "F"], rel=1e-5)
    assert wide["lab F"].isna().tolist() == wide["PCK@0.1"].isna().tolist() == [False, True]


def test_summary_refuses_two_tables_of_one_encoder_and_foreign_files(tables: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both hold encoder 'fine' on davis"):
        summarise([tables[0], tables[0]], tmp_path / "s.parquet", tmp_path / "s.csv")
    summarise(tables, tmp_path / "summary.parquet", tmp_path / "summary.csv")
    with pytest.raises(ValueError, match="no propagation table"):
        summarise([tmp_path / "summary.parquet"], tmp_path / "s.parquet", tmp_path / "s.csv")
    with pytest.raises(ValueError, match="no propagation tables were given"):
        summarise([], tmp_path / "s.parquet", tmp_path / "s.csv")


def test_command_prints_one_json_line_and_summarises(tmp_path: Path) -> None:
    root, runner = write_davis(tmp_path / "clips"), CliRunner()
    protocol = davis_protocol(root).canonical_json()
    result = runner.invoke(
        app,
        ["propagation", "run", "davis", "--settings", protocol, "--encoder", PIXELS, "--name", "floor", "--output", str(tmp_path / "out"),
         "--work", str(tmp_path / "work"), "--threads", "1", "--device", "cpu", "--json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout.splitlines()[-1])) == {"J&F", "J", "F"}
    table = tmp_path / "out/davis.parquet"
    summary = runner.invoke(
        app, ["propagation", "summarise", "--output", str(tmp_path / "summary.parquet"), str(table), "--json"]
    )
    assert json.loads(summary.stdout.splitlines()[-1])["encoders"] == 1
    assert (tmp_path / "summary.csv").is_file()


def test_a_published_checkpoint_and_every_flag_work_without_a_config(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "clips", ("one",), frames=3)
    vit = build_vit(VitSettings(patch_size=8, embed_dim=192, depth=1, num_heads=3, image_size=64))
    state = {**vit.state_dict(), "mask_token": torch.zeros(1, 1, 16), "decoder_pred.weight": torch.zeros(192, 16)}
    torch.save({"model": state, "epoch": 400}, tmp_path / "cropmae.pth")
    changes = ["resolution=480p", "input_size=96", "top_k=5", "queue_length=3", "radius=4", "temperature=0.5"]
    result = CliRunner().invoke(
        app,
        ["propagation", "run", "davis", "--encoder", f"{tmp_path}/cropmae.pth?key=model&prefix=&num_heads=3", "--root", str(root),
         "--output", str(tmp_path / "out"), *(word for change in changes for word in ("--settings", change)), "--save-predictions",
         "--overlays", "gif", "--device", "cpu"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"table  {tmp_path / 'out/davis.parquet'}" in result.output.replace("\n", "")
    metadata = table_metadata(tmp_path / "out/davis.parquet")
    assert metadata["encoder_settings"] == {
        "checkpoint": str(tmp_path / "cropmae.pth"),
        "key": "model",
        "prefix": "",
        "num_heads": 3,
    }
    protocol = metadata["protocol"]
    chosen = {name: protocol[name] for name in ("input_size", "top_k", "queue_length", "radius", "temperature")}
    assert chosen == {"input_size": 96, "top_k": 5, "queue_length": 3, "radius": 4, "temperature": 0.5}
    assert (tmp_path / "out/masks/one/00002.png").is_file()
    assert (tmp_path / "out/overlays/one.gif").is_file()
    assert not list((tmp_path / "out").glob(".*work"))


def test_check_lists_what_a_folder_holds(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["propagation", "check", "vip", "--root", str(write_vip(tmp_path)), "--json"])
    assert json.loads(result.stdout) == {"sequences": 2, "frames": 8, "sizes": "96x64"}


def test_show_prints_encoders_above_the_paper_s_table(tables: list[Path], tmp_path: Path) -> None:
    summarise(tables, tmp_path / "summary.parquet", tmp_path / "summary.csv")
    console = Console(width=300, record=True, file=io.StringIO())
    render_display(read_display(tmp_path), console)
    lines = console.export_text().splitlines()
    fine, paper = (next(line for line in lines if name in line) for name in ("fine", "CDG-MAE-a3"))
    assert "62.6" in paper
    assert paper.rstrip("│ ").endswith("76.3")
    assert lines.index(fine) < lines.index(paper)
    assert any(
        line.startswith("davis: 2 sequences scored at 96x64; cropmae, ")
        and all(part in line for part in ("input_size [64, 96], ", "temperature 0.7", "protocol native"))
        for line in lines
    )
    result = CliRunner().invoke(app, ["propagation", "show", "--results", str(tmp_path), "--json"])
    assert {row["encoder"] for row in json.loads(result.stdout)["summary"]} == {"fine", "coarse"}
    with pytest.raises(ValueError, match="does not exist; run"):
        read_display(tmp_path / "nowhere")


@pytest.mark.parametrize(("change", "word"), [("temperature", "protocol"), ("frames", "sequences"), ("root", "")])
def test_summary_warns_of_scores_that_do_not_compare(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str, word: str
) -> None:
    roots = [write_davis(tmp_path / name, ("one", "two") if change == "frames" else ("one",), frames=3) for name in ("a", "b")]
    if change == "frames":
        (roots[1] / "ImageSets/2017/val.txt").write_text("two")
    tables = []
    for place, root in enumerate(roots):
        protocol = DavisProtocol(root=str(root), input_size=(64, 96), temperature=0.7 - 0.2 * place * (change == "temperature"))
        tables.append(tmp_path / f"{place}.parquet")
        run_propagation(protocol, parse_encoder(PIXELS), tables[-1], runtime=ON_CPU, name=f"e{place}")
    with caplog.at_level("WARNING", logger="cdgmae"):
        summarise(tables, tmp_path / "s.parquet", tmp_path / "s.csv")
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [f"another {word}" in message for message in warnings] == ([True] if word else [])


def test_flags_lie_over_settings_and_the_paper_s_values_fill_the_rest() -> None:
    vip = read_protocol("vip", None, "clips")
    assert (vip.input_size, vip.top_k, vip.queue_length, vip.radius, vip.temperature) == (880, 10, 20, 20, 0.7)
    assert read_protocol("jhmdb", None, "clips").input_size == (320, 320)
    assert read_protocol("davis", None, "clips").input_size == (480, 880)
    mixed = read_protocol("vip", ['{"root": "clips", "input_size": 448}', "top_k=3"], None)
    assert (mixed.input_size, mixed.top_k) == (448, 3)
    with pytest.raises(ValueError, match="--root is needed: the folder of VIP"):
        read_protocol("vip", ["top_k=3"], None)
    with pytest.raises(ValueError, match=r"resolution: unknown key; allowed: .*top_k"):
        read_protocol("vip", ["resolution=480p"], "clips")
    with pytest.raises(ValueError, match="kind 'badja' of evaluation set is unknown; allowed: davis, vip, jhmdb"):
        read_protocol("badja", None, "clips")


def test_the_paper_s_table_averages_j_and_f() -> None:
    for row in PAPER_TABLES["table5"].rows.values():
        both, region, contour = (row.printed[name].value for name in ("J&F", "J", "F"))
        assert both == pytest.approx((region + contour) / 2, abs=0.11)
