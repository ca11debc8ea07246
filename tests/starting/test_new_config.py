"""`cdgmae config new`: what it writes passes the check, is planned as it is, and holds the stages that were asked for."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.config import load_config
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS
from cdgmae.starting.new_config import SIZES, write_new_config
from cdgmae.workflow.named_files import load_run
from tests.workflow.conftest import Workplace, environment
from tests.workflow.planning import planned, stand_in_set

SETS = ("davis", "vip", "jhmdb", "clips")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with folders of the user's."""
    for number in range(5):
        image = tmp_path / f"My photos: 2024/train/cats/{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number, 2, 3)).save(image)
    for name in SETS:
        stand_in_set(tmp_path / name, "davis" if name == "clips" else name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


IMAGES = "My photos: 2024/train"


@pytest.mark.parametrize("size", SIZES)
def test_every_choice_of_stages_passes_the_check_and_is_planned_without_an_edit(place: Path, size: str) -> None:
    workplace = Workplace(place)
    choices = [None, ["shards"], ["views"], ["consistency"], ["pretrain"], ["pretrain", "propagation"], ["propagation"]]
    for number, stages in enumerate(choices):
        workplace.config_file.unlink(missing_ok=True)
        made = write_new_config(workplace.config_file, IMAGES, dict(zip(SETS, SETS, strict=True)), size, stages)  # type: ignore[arg-type]
        config = load_run(workplace.config_file)
        text = workplace.config_file.read_text()
        assert "\n\n\n" not in text
        assert not re.search(r"[ \t]$|\{\{|\{%", text, re.MULTILINE)
        assert all(stage in made["stages"] for stage in stages or ())
        assert config.report.title in ("CDG-MAE on My_photos_2024", "Encoders on video label propagation")
        if number in (0, 3):
            assert "write_report" in planned(workplace)


def test_the_papers_protocol_is_the_papers_and_the_small_one_has_its_grids(place: Path) -> None:
    configs = {}
    for size in SIZES:
        write_new_config(place / f"{size}.yaml", IMAGES, dict(zip(SETS, SETS, strict=True)), size)
        configs[size] = load_config(place / f"{size}.yaml")
    paper, small = configs["paper"], configs["small"]
    for name, protocol in paper.propagation.datasets.items():
        defaults = type(protocol)(kind=BENCHMARKS[protocol.kind].kind, root=name)
        assert protocol.model_dump(exclude={"protocol"}) == defaults.model_dump(exclude={"protocol"})
    run = paper.pretrain.runs["cdg_a3"]
    assert (run.embed_dim, run.image_size, run.epochs, run.effective_batch_size, run.num_anchors) == (384, 224, 100, 2048, 3)
    assert paper.views.sources["s_ldm"].num_views == 4
    for name, protocol in small.propagation.datasets.items():
        patch = small.pretrain.runs["cdg"].patch_size
        big, little = paper.propagation.datasets[name].input_size, protocol.input_size
        assert [side / run.patch_size for side in _sides(big)] == [side / patch for side in _sides(little)]
        assert (protocol.top_k, protocol.radius) == (paper.propagation.datasets[name].top_k, 20)


def test_encoders_from_elsewhere_are_judged_by_the_papers_protocol(place: Path) -> None:
    write_new_config(place / "my.yaml", None, {"davis": "davis", "jhmdb": "jhmdb"}, "small")
    sets = load_config(place / "my.yaml").propagation.datasets
    assert [protocol.input_size for protocol in sets.values()] == [(480, 880), (320, 320)]


def test_where_there_is_no_workflow_one_is_written_and_the_protocol_is_said(place: Path) -> None:
    for output, words in (
        ("a.yaml", ["--davis", "davis"]),
        ("b.yaml", ["--images", IMAGES, "--davis", "davis", "--size", "demo"]),
    ):
        done = CliRunner().invoke(app, ["config", "new", *words, "--output", output, "--json"], catch_exceptions=False)
        result = json.loads(done.stdout.splitlines()[-1])
        assert ("snakefile" in result) == (output == "a.yaml")
        assert result["protocol"].startswith("The paper's protocol. It holds at" if output == "a.yaml" else "Small frames")
        assert ("size" in result) == (output == "b.yaml")
    assert "include: snakefile()" in (place / "Snakefile").read_text()
    command = ["snakemake", "--configfile", "a.yaml", "--cores", "1", "--dry-run", "--quiet", "all"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def _sides(size: tuple[int, int] | int) -> tuple[int, ...]:
    return size if isinstance(size, tuple) else (size,)


def test_tars_are_recognised_and_not_counted_one_by_one(place: Path) -> None:
    for name, layout in (("n01440764.tar", "class_tars"), ("00000.tar", "webdataset")):
        folder = place / layout
        folder.mkdir()
        with (folder / name).open("wb") as tar:
            os.truncate(tar.fileno(), 30_000 * 110_000)
        write_new_config(place / f"{layout}.yaml", layout, {}, "paper", ["shards"])
        (dataset,) = load_config(place / f"{layout}.yaml").shards.datasets.values()
        assert (dataset.layout, dataset.num_shards) == (layout, 4)


WRONG = [
    ({}, "nothing to configure: give --images FOLDER, or --davis"),
    ({"images": "nowhere"}, "--images nowhere: no such folder$"),
    ({"images": "davs"}, r"--images davs: no such folder \(did you mean 'davis'\?\)"),
    ({"images": "davis"}, r"--images davis: holds neither images \(.*\) nor \.tar files"),
    ({"images": IMAGES, "stages": ["view"]}, r"--stages view: no such stage; .*did you mean 'views'"),
    ({"images": IMAGES, "stages": ["propagation"]}, "--stages propagation needs --davis, --vip, --jhmdb or --clips"),
    ({"sets": {"davis": "davis"}, "stages": ["views"]}, "--stages views needs --images"),
    ({"sets": {"davis": "nowhere"}}, r"^my\.yaml is not written:\n  - --davis 'nowhere': does not exist; correct it"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=itertools.count())
def test_what_cannot_be_written_is_told_and_nothing_is_written(place: Path, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_new_config(Path("my.yaml"), given.get("images"), given.get("sets", {}), "small", given.get("stages"))
    assert not (place / "my.yaml").exists()


def test_a_file_that_is_there_is_left_as_it_is(place: Path) -> None:
    (place / "my.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"my\.yaml exists and is left as it is"):
        write_new_config(place / "my.yaml", IMAGES, {}, "small")
    assert (place / "my.yaml").read_text() == "mine"
