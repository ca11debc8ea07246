"""The 480x880 copy of DAVIS: how it is made, continued and kept away from the data."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from drawn_clips import snapshot, write_davis
from PIL import Image
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.config import check_config
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.layouts.davis_layout import read_davis
from cdgmae.propagation.layouts.prepare_davis import PREPARED_SIZE, prepare_davis, resized_bytes
from cdgmae.propagation.measures.masks import read_annotation
from cdgmae.status.expected import expected_jobs
from cdgmae.workflow import propagation

ROOT = Path(__file__).parents[2]


def test_frames_and_annotations_are_resized_by_nearest_neighbours(tmp_path: Path) -> None:
    root, output = write_davis(tmp_path / "DAVIS", frames=3), tmp_path / "copy"
    before = snapshot(root)
    result = prepare_davis(root, output)
    assert result == {"sequences": 2, "frames": 6, "written": 12, "size": "880x480", "output": str(output)}
    assert snapshot(root) == before
    name = Path("480p/two/00001")
    frame = Image.open(root / "JPEGImages" / name.with_suffix(".jpg")).resize((880, 480), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    frame.save(buffer, format="JPEG")  # Pillow's default quality
    assert (output / "JPEGImages" / name.with_suffix(".jpg")).read_bytes() == buffer.getvalue()
    ours, theirs = (read_annotation(folder / "Annotations" / name.with_suffix(".png")) for folder in (output, root))
    expected = np.asarray(Image.fromarray(theirs.ids_HW).resize((880, 480), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(ours.ids_HW, expected)
    np.testing.assert_array_equal(ours.palette, theirs.palette)
    clips = read_davis(output)
    assert [(clip.name, clip.frame_size) for clip in clips] == [("one", (480, 880)), ("two", (480, 880))]


def test_a_copy_follows_its_source(tmp_path: Path) -> None:
    root, output = write_davis(tmp_path / "DAVIS", frames=4), tmp_path / "copy"
    prepare_davis(root, output)
    frames = root / "JPEGImages/480p/one"
    (frames / "00003.jpg").unlink()
    (root / "Annotations/480p/one/00003.png").unlink()
    Image.open(root / "JPEGImages/480p/two/00000.jpg").rotate(180).save(frames / "00001.jpg")
    os.utime(frames / "00001.jpg", (1, 1))  # an older file in the place of another one
    assert prepare_davis(root, output)["written"] == 1
    assert (output / "JPEGImages/480p/one/00001.jpg").read_bytes() == resized_bytes(frames / "00001.jpg", ".jpg")
    assert [path.name for path in sorted(output.glob("*/480p/one/*"))] == [
        f"0000{number}.{ending}" for ending in ("png", "jpg") for number in range(3)
    ]


def test_an_interrupted_copy_has_no_list_and_continues(tmp_path: Path) -> None:
    root, output = write_davis(tmp_path / "DAVIS", frames=3), tmp_path / "copy"

    def stop(sequence: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_davis(root, output, stop)
    with pytest.raises(ValueError, match=r"val\.txt: missing"):
        read_davis(output)
    (output / "JPEGImages/480p/one/00002.jpg").unlink()
    kept = snapshot(output)
    assert prepare_davis(root, output)["written"] == 7
    assert kept["Annotations/480p/one/00001.png"] == snapshot(output)["Annotations/480p/one/00001.png"]
    assert prepare_davis(root, output)["written"] == 0


def test_the_copy_never_goes_into_data_or_over_something_else(tmp_path: Path) -> None:
    root, other = write_davis(tmp_path / "DAVIS", frames=3), write_davis(tmp_path / "other", frames=3)
    with pytest.raises(ValueError, match="lies inside the data folder"):
        prepare_davis(root, root / "resized")
    with pytest.raises(ValueError, match="is not empty"):
        prepare_davis(root, other)
    prepare_davis(root, tmp_path / "copy")
    with pytest.raises(ValueError, match=f"holds a copy of {root}, not of {other}"):
        prepare_davis(other, tmp_path / "copy")


def test_the_command_prints_what_it_made(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "DAVIS", frames=3)
    result = CliRunner().invoke(
        app, ["propagation", "prepare-davis", "--root", str(root), "--output", str(tmp_path / "copy"), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["size"] == "880x480"
    frame = next((tmp_path / "copy/JPEGImages").rglob("*.jpg"))
    whole = frame.read_bytes()
    frame.write_bytes(whole[:-9])  # cut short afterwards: written anew, the others are kept
    again = CliRunner().invoke(
        app, ["propagation", "prepare-davis", "--root", str(root), "--output", str(tmp_path / "copy"), "--json"]
    )
    assert json.loads(again.stdout.splitlines()[-1])["written"] == 1
    assert frame.read_bytes() == whole


def test_the_published_protocol_is_scored_on_the_copy_only(tmp_path: Path) -> None:
    source = write_davis(tmp_path / "DAVIS")
    protocol = {"kind": "davis", "root": str(source), "protocol": "published"}
    with pytest.raises(ValueError, match=r"is not the 480x880 copy of DAVIS; make it with `cdgmae propagation prepare-davis"):
        BENCHMARKS["davis"].read(DavisProtocol(**protocol))
    (tmp_path / "copy/ImageSets/2017").mkdir(parents=True)  # as Snakemake does for the declared output
    prepare_davis(source, tmp_path / "copy")
    clips = BENCHMARKS["davis"].read(DavisProtocol(**protocol | {"root": str(tmp_path / "copy")}))
    assert {size for clip in clips for size in clip.sizes} == {PREPARED_SIZE}
    with pytest.raises(ValueError, match="protocol published is measured at 480p"):
        DavisProtocol(**protocol | {"resolution": "Full-Resolution"})


def test_the_workflow_prepares_the_published_set_and_both_protocols_stand_side_by_side() -> None:
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    sets = values["propagation"]["datasets"]
    sets["native"] = dict(sets["davis"], kind="davis")
    sets["davis"]["protocol"] = "published"
    config = check_config(values)
    copy = "results/evaluation_sets/davis"
    assert propagation.protocol(config, "davis").root == copy
    assert propagation.set_inputs(config, "davis") == [f"{copy}/ImageSets/2017/val.txt"]
    assert propagation.protocol(config, "native").root == propagation.source_root(config, "davis") == sets["davis"]["root"]
    assert (
        propagation.clips_digest(config, "davis") == propagation.source_digest(config, "native") == ""
    )  # of a copy, of the demo
    assert propagation.source_inputs(config, "davis") == propagation.set_inputs(config, "native") != []
    jobs = [job for job in expected_jobs(config) if job.rule == "prepare_davis"]
    assert [(job.name, job.outputs) for job in jobs] == [("davis", (f"{copy}/ImageSets/2017/val.txt",))]
    paper = check_config(yaml.safe_load((ROOT / "workflow/experiments/paper.yaml").read_text()))
    assert propagation.protocol(paper, "davis").root == copy
