"""What is planned when a file is lost or broken, or the user's images are others: that, and what must follow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdgmae.demo.draw import draw_demo
from cdgmae.settings.demo import DemoSettings
from tests.workflow.conftest import ROOT, Workplace, set_key, tiny_config
from tests.workflow.finished_tree import FRAME, INSIDE, STAGES, configured, like, photos_config, set_aside, with_what_follows
from tests.workflow.planning import planned
from tests.workflow.test_plans_of_changes import CHANGES
from tests.workflow.what_reruns import Row, page


def test_every_output_that_is_lost_is_made_again_with_all_that_follows_and_nothing_else(
    tree: Workplace, jobs: dict[str, list[str]]
) -> None:
    lost = [(job, output) for job, outputs in jobs.items() for output in outputs]
    assert len(lost) > 60
    wrong = {}
    for job, output in lost:
        with set_aside(tree.folder / output):
            found = planned(tree)
        expected = with_what_follows({job}, jobs)
        if found != expected:
            wrong[output] = {"too many": sorted(found - expected), "missing": sorted(expected - found)}
    assert wrong == {}


DAMAGED = [
    "results/shards/photos/manifest.parquet", "results/shards/photos/left_out.csv", "results/shards/photos/00000.tar",
    "results/shards/photos/00000.parquet", "results/shards/photos/bad_images.csv", f"results/generators/s_ldm/{INSIDE}",
    "results/embeddings/near/index.faiss", "results/views/s_ldm/00000.parquet", "results/consistency/s_ldm/00000.parquet",
    "results/pretrain/cdg/seed0/encoder.safetensors", f"results/pretrain/cdg/seed0/panels/{INSIDE}",
    f"results/propagation/cdg/strips/davis/{INSIDE}", "results/propagation/summary.csv", f"results/report/{INSIDE}",
]  # fmt: skip
"""A file of every kind, alone or in a folder."""

TABLES = [name for name in DAMAGED if name.endswith(".parquet")]
"""Files whose bytes a plan compares where they are newer than their record."""


def makes(jobs: dict[str, list[str]], file: str) -> str:
    """The job whose output a file is or lies in."""
    return next(job for job, outputs in jobs.items() for output in outputs if file == output or file.startswith(f"{output}/"))


@pytest.mark.parametrize("damage", ["lost", "cut short", "changed"])
def test_a_file_that_is_damaged_or_lost_in_a_folder_is_made_again_by_its_job(
    tree: Workplace, jobs: dict[str, list[str]], damage: str
) -> None:
    wrong = {}
    for name in DAMAGED if damage != "changed" else TABLES:
        file = tree.folder / name
        times = file.stat()
        if damage == "lost":
            with set_aside(file):
                found = planned(tree)
        else:
            file.write_text("who" if damage == "cut short" else "WHOLE")
            found = planned(tree)
            file.write_text("whole")
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        expected = with_what_follows({makes(jobs, name)}, jobs)
        if found != expected:
            wrong[name] = {"too many": sorted(found - expected), "missing": sorted(expected - found)}
    assert wrong == {}
    assert planned(tree) == set()


def test_the_file_of_one_run_asks_for_a_lost_shard_of_its_images(tree: Workplace) -> None:
    target = "results/pretrain/crops/seed0/encoder.safetensors"
    with set_aside(tree.folder / "results/shards/photos/00001.tar"):
        assert planned(tree, target) == {"write_shard photos 00001", "summarise_shards photos", "pretrain_encoder crops 0"}


@pytest.mark.parametrize("kind", ["images/*/*.JPEG", "DAVIS/**/*.jpg", "JHMDB/**/*.mat"])
def test_a_file_of_the_demo_data_that_is_gone_is_drawn_again(drawn: Workplace, kind: str) -> None:
    manifest = "results/shards/demo/manifest.parquet"
    with set_aside(next((drawn.folder / "data/demo").glob(kind))):
        assert planned(drawn, manifest) == {"draw_demo_data", "write_manifest demo"}
    assert planned(drawn, manifest) == set()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The demo data, and a manifest that is held for made of it."""
    place = Workplace(tmp_path_factory.mktemp("demo"))
    config = tiny_config()
    place.write_config(config)
    draw_demo(DemoSettings.checked(config["demo"] | {"directory": str(place.folder / "data/demo")}, "test"), config["seed"])
    (place.folder / "results/shards/demo").mkdir(parents=True)
    (place.folder / "results/shards/demo/manifest.parquet").touch()
    done = place.run("results/shards/demo/manifest.parquet", "--touch", "--forceall", "--quiet", "all")
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def planned_after(tree: Workplace, file: Path, change: str) -> set[str]:
    """What is planned once something happened to a user's file, or beside it; the file is then as it was."""
    before, bytes_before = file.stat(), file.read_bytes()
    if change == "removed":
        with set_aside(file):
            return planned(tree)
    if change in ("added", "hidden"):
        new = file.with_name("3.jpg" if change == "added" else ".3.jpg")
        new.touch()
        found = planned(tree)
        new.unlink()
        return found
    file.write_bytes(bytes_before.upper() if change == "replaced" else bytes_before)  # of equal size
    found = planned(tree)
    file.write_bytes(bytes_before)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return found


USERS_FILES = {"photos/cats/1.jpg": r"write_manifest photos"} | {
    f"{name}/{FRAME}": rf"propagate_labels \w+ {name}" for name in ("davis", "vip", "jhmdb")
}
"""A file of each folder of the user's, and the jobs that read that folder."""


@pytest.mark.parametrize("file", USERS_FILES)
@pytest.mark.parametrize("change", ["added", "removed", "replaced", "touched", "hidden"])
def test_what_happens_to_the_user_s_files_is_noticed(tree: Workplace, jobs: dict[str, list[str]], file: str, change: str) -> None:
    readers = like(jobs, USERS_FILES[file]) if change != "hidden" else set()
    assert planned_after(tree, tree.folder / file, change) == with_what_follows(readers, jobs)
    assert planned(tree) == set()


@pytest.mark.parametrize(
    ("notice", "change", "seen"), [("hash", b"image", False), ("hash", b"IMAGE", True), ("nothing", b"x", False)]
)
def test_images_are_told_apart_as_configured(tree: Workplace, notice: str, change: bytes, seen: bool) -> None:
    image = tree.folder / "photos/cats/1.jpg"
    before, config = image.stat(), set_key(photos_config(), "shards.datasets.photos.notice", notice)
    with configured(tree, config):
        done = tree.run("results/shards/photos/manifest.parquet", "--touch", "--quiet", "all")
        assert done.returncode == 0, done.stderr[-2000:]
        image.write_bytes(change)
        assert ("write_manifest photos" in planned(tree, "results/shards/photos/manifest.parquet")) == seen
        image.write_bytes(b"image")
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = tree.run("--touch", "--quiet", "all")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("stage", STAGES)
def test_the_target_of_a_stage_asks_for_every_result_of_it(tree: Workplace, jobs: dict[str, list[str]], stage: str) -> None:
    for job, outputs in jobs.items():
        if job.split()[0] in STAGES[stage]:
            with set_aside(tree.folder / outputs[0]):
                assert job in planned(tree, stage), job


@pytest.mark.parametrize("target", ["pretrain", "propagation", "report", "table4", "all"])
def test_a_run_that_must_be_trained_waits_for_its_lost_shard_whatever_the_target(tree: Workplace, target: str) -> None:
    """Runs name the summary of their shards, not each of them; whoever asks for runs asks for the shards."""
    with (
        configured(tree, set_key(photos_config(), "pretrain.runs.cdg.anchor_masking_ratio", 0.5)),
        set_aside(tree.folder / "results/shards/photos/00001.tar"),
    ):
        assert planned(tree, target) >= {"write_shard photos 00001", "summarise_shards photos", "pretrain_encoder cdg 0"}


HAPPENINGS = ["added", "removed", "replaced", "written again"]
"""What may happen to a file of the user's; each plans the jobs that read its folder."""


def test_the_page_on_what_reruns_says_what_these_tests_hold(jobs: dict[str, list[str]], request: pytest.FixtureRequest) -> None:
    stage_of = {rule: "report" if stage == "tables" else stage for stage, rules in STAGES.items() for rule in rules}
    files = {
        "shards": ("an image", r"write_manifest photos"),
        "propagation": ("a file of set `davis`", r"propagate_labels \w+ davis"),
    }
    rows = []
    for stage in dict.fromkeys(stage_of.values()):
        what, readers = files.get(stage, ("", ""))
        rows += [Row(stage, f"{what} is {change}", with_what_follows(like(jobs, readers), jobs)) for change in HAPPENINGS if what]
        rows += [
            Row(stage, f"`{output}` is lost", with_what_follows({job}, jobs))
            for job, outputs in jobs.items()
            if stage_of[job.split()[0]] == stage and not job.endswith("00001")
            for output in outputs
        ]
        rows += [
            Row(
                stage,
                f"`{file}` is {'lost or ' * (file.endswith(INSIDE))}cut short",
                with_what_follows({makes(jobs, file)}, jobs),
            )
            for file in DAMAGED
            if stage_of[makes(jobs, file).split()[0]] == stage
        ]
        rows += [
            Row(stage, f"`{file}` is changed at equal size", with_what_follows({makes(jobs, file)}, jobs))
            for file in TABLES
            if stage_of[makes(jobs, file).split()[0]] == stage
        ]
    for key, (_, patterns) in CHANGES.items():
        section = key.split(".")[0]
        rows.append(
            Row(section if section in STAGES else "all", f"`{key}` is changed", with_what_follows(like(jobs, *patterns), jobs))
        )
    text, file = page(rows), ROOT / "docs/what_reruns.md"
    assert len(rows) >= 60
    if request.config.getoption("write_pages"):
        file.write_text(text)
    assert file.read_text() == text, "the page is of other rules: pytest tests/workflow/test_plans.py --write-pages"
