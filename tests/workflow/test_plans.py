"""What is planned when a file is lost or broken, a key is changed, or the user's images are others: that, and what must follow.

The tree is one that Snakemake holds for finished; its files hold a word, since only names, sizes, times and recorded parameters matter to a plan.
`BEHIND` says once more, by hand, which jobs read what a job writes.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from cdgmae.config import load_config
from cdgmae.demo.draw import draw_demo
from cdgmae.settings.demo import DemoSettings
from cdgmae.status.evidence import judge
from cdgmae.status.expected import expected_jobs
from cdgmae.status.plan import read_plan
from cdgmae.storage.files.records import record_path, write_record
from cdgmae.workflow.last_run import RECORD
from tests.workflow.conftest import ROOT, Workplace, set_key, tiny_config
from tests.workflow.planning import outputs_of_jobs, planned, stand_in_set
from tests.workflow.what_reruns import Row, page

BEHIND = [
    (r"write_manifest photos", [r"write_shard photos \d+", r"summarise_shards photos"]),
    (r"write_shard photos (\d+)", [
        r"summarise_shards photos", r"(make|gather)_views \w+ \1", r"embed_images near \1", r"score_views \w+ \1",
        r"train_generator s_ldm",
    ]),
    (r"summarise_shards photos", [r"train_generator s_ldm", r"gather_views (near|far) \d+", r"pretrain_encoder \w+ 0", r"write_report"]),
    (r"train_generator s_ldm", [r"make_views s_ldm \d+"]),
    (r"embed_images near \d+", [r"index_embeddings near"]),
    (r"index_embeddings near", [r"gather_views near \d+"]),
    (r"(?:make|gather)_views (\w+) (\d+)", [r"score_views \1 \2", r"write_report"]),
    (r"make_views s_ldm \d+", [r"pretrain_encoder (cdg|chosen) 0"]),
    (r"score_views \w+ \d+", [r"summarise_consistency", r"write_report"]),
    (r"score_views s_ldm \d+", [r"pretrain_encoder chosen 0", r"write_table table1"]),
    (r"score_views near \d+", [r"write_table table1"]),
    (r"pretrain_encoder conditioning 0", [r"train_generator s_ldm", r"score_views \w+ \d+"]),
    (r"pretrain_encoder (\w+) 0", [r"propagate_labels \1 \w+", r"write_report"]),
    (r"propagate_labels \w+ \w+", [r"summarise_propagation", r"write_report"]),
    (r"propagate_labels cdg \w+", [r"write_table table4"]),
    (r"summarise_(consistency|propagation)", [r"write_report"]),
]  # fmt: skip
"""Pattern of a job -> patterns of those that read what it writes."""


INSIDE = "figures/first.svg"
"""A file of every output that is a folder."""


def photos_config() -> dict[str, Any]:
    """The tiny demo's shape with a folder of the user's images, a source of every way to make views, and a run that chooses views."""
    config = tiny_config()
    config.pop("demo")
    (dataset,) = config["shards"]["datasets"].values()
    config["shards"]["datasets"] = {"photos": dataset | {"path": "photos"}}
    config["views"]["generators"]["s_ldm"]["train"]["dataset"] = "photos"
    sources = config["views"]["sources"]
    sources |= {
        "near": {"kind": "knn", "encoder": {"pixels": 8}, "image_size": 64, "num_views": 2},
        "far": {"kind": "random", "num_views": 2},
    }
    for source in sources.values():
        source["dataset"] = "photos"
    config["consistency"]["sources"] = ["s_ldm", "near", "far"]
    runs = config["pretrain"]["runs"]
    runs["chosen"] = runs["cdg"] | {"view_filter": "nps > 0.5"}
    for name, protocol in config["propagation"]["datasets"].items():
        protocol["root"] = name
    config["propagation"]["encoders"]["chosen"] = {"run": "chosen"}
    config["report"]["tables"] = {"table1": {"s_ldm": "s_ldm", "knn": "near"}, "table4": {"a2_r25": "cdg"}}
    return config


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The finished tree; every test leaves it as it was."""
    place = Workplace(tmp_path_factory.mktemp("plans"))
    config = photos_config()
    place.write_config(config)
    for folder in ("photos/cats", "photos/dogs"):
        (place.folder / folder).mkdir(parents=True)
    for name in config["propagation"]["datasets"]:
        stand_in_set(place.folder / name, name)
    for name in ("cats/1.jpg", "cats/2.jpg", "dogs/1.jpg"):
        (place.folder / "photos" / name).write_bytes(b"image")
    for outputs in outputs_of_jobs(place).values():
        by_record: dict[Path, list[Path]] = defaultdict(list)
        for output in outputs:
            path = place.folder / output
            file = path if path.suffix else path / INSIDE
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("whole")
            by_record[record_path(path)].append(path)
        for record, described in by_record.items():
            write_record(record, described, {})
    done = place.run("--touch", "--forceall", "--quiet", "all")
    assert done.returncode == 0, done.stderr[-3000:]
    assert planned(place) == set()
    return place


@pytest.fixture(scope="module")
def jobs(tree: Workplace) -> dict[str, list[str]]:
    return outputs_of_jobs(tree)


def with_what_follows(first: set[str], jobs: dict[str, list[str]]) -> set[str]:
    """Jobs and everything that reads what they write, and so on."""
    found, pending = set(first), list(first)
    while pending:
        job = pending.pop()
        for pattern, readers in BEHIND:
            if (match := re.fullmatch(pattern, job)) is not None:
                wanted = [match.expand(reader.replace(r"\d", r"\\d").replace(r"\w", r"\\w")) for reader in readers]
                new = {other for other in jobs for reader in wanted if re.fullmatch(reader, other)} - found
                found |= new
                pending += new
    return found


def like(jobs: dict[str, list[str]], *patterns: str) -> set[str]:
    """The jobs that fit one of some patterns; every pattern fits one."""
    found = {pattern: {job for job in jobs if re.fullmatch(pattern, job)} for pattern in patterns}
    assert all(found.values()), found
    return set().union(*found.values())


@contextmanager
def configured(tree: Workplace, config: dict[str, Any]) -> Iterator[None]:
    tree.write_config(config)
    try:
        yield
    finally:
        tree.write_config(photos_config())


@contextmanager
def set_aside(path: Path) -> Iterator[None]:
    """While a file or folder is gone; it comes back with the times that it had, and so does its folder."""
    times, aside = path.parent.stat(), path.parents[-2] / f".aside-{os.getpid()}"
    shutil.move(path, aside)
    try:
        yield
    finally:
        shutil.move(aside, path)
        os.utime(path.parent, ns=(times.st_atime_ns, times.st_mtime_ns))


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


def makes(jobs: dict[str, list[str]], file: str) -> str:
    """The job whose output a file is or lies in."""
    return next(job for job, outputs in jobs.items() for output in outputs if file == output or file.startswith(f"{output}/"))


@pytest.mark.parametrize("damage", ["lost", "cut short"])
def test_a_file_that_is_damaged_or_lost_in_a_folder_is_made_again_by_its_job(
    tree: Workplace, jobs: dict[str, list[str]], damage: str
) -> None:
    wrong = {}
    for name in DAMAGED:
        file = tree.folder / name
        times = file.stat()
        if damage == "lost":
            with set_aside(file):
                found = planned(tree)
        else:
            file.write_text("who")
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
    for name in ("manifest.parquet", "left_out.csv"):
        (place.folder / "results/shards/demo").mkdir(parents=True, exist_ok=True)
        (place.folder / "results/shards/demo" / name).touch()
    done = place.run("results/shards/demo/manifest.parquet", "--touch", "--forceall", "--quiet", "all")
    assert done.returncode == 0, done.stderr[-3000:]
    return place


CHANGES = {
    "seed": (1, [r"write_manifest photos", r"train_generator s_ldm"]),
    "shards.datasets.photos.resize": ("center_crop", [r"write_shard photos \d+"]),
    "shards.datasets.photos.jpeg_quality": (80, [r"write_shard photos \d+"]),
    "shards.datasets.photos.max_bad_fraction": (0.5, []),
    "views.generators.s_ldm.train.num_steps": (5, [r"train_generator s_ldm"]),
    "views.sources.s_ldm.sampling.guidance_scale": (2.0, [r"make_views s_ldm \d+"]),
    "views.sources.s_ldm.sampling.num_views": (3, [r"make_views s_ldm \d+"]),
    "views.sources.s_ldm.sampling.batch_size": (8, []),
    "views.sources.s_ldm.sampling.max_bad_fraction": (0.5, []),
    "views.sources.near.image_size": (32, [r"embed_images near \d+"]),
    "views.sources.near.num_views": (1, [r"gather_views near \d+"]),
    "views.sources.near.duplicate_similarity": (0.9, [r"gather_views near \d+"]),
    "views.sources.far.num_views": (1, [r"gather_views far \d+"]),
    "views.sources.near.max_bad_fraction": (0.5, []),
    "consistency.image_size": (96, [r"score_views \w+ \d+"]),
    "consistency.batch_size": (8, []),
    "consistency.max_bad_fraction": (0.5, []),
    "consistency.encoder": ({"pixels": 8}, [r"score_views \w+ \d+"]),
    "pretrain.defaults.epochs": (3, [r"pretrain_encoder \w+ 0"]),
    "pretrain.runs.cdg.anchor_masking_ratio": (0.5, [r"pretrain_encoder cdg 0"]),
    "pretrain.runs.crops.target_masking_ratio": (0.5, [r"pretrain_encoder crops 0"]),
    "pretrain.runs.conditioning.target_masking_ratio": (0.5, [r"pretrain_encoder conditioning 0"]),
    "pretrain.runs.chosen.view_filter": ("nps > 0.6", [r"pretrain_encoder chosen 0"]),
    "propagation.datasets.davis.top_k": (5, [r"propagate_labels \w+ davis"]),
    "propagation.datasets.jhmdb.radius": (7, [r"propagate_labels \w+ jhmdb"]),
    "propagation.encoders.crops": ({"pixels": 8}, [r"propagate_labels crops \w+"]),
    "report.title": ("Another title", [r"write_report"]),
    "runtime.threads": (2, []),
    "runtime.precision": ("bf16", []),
}  # fmt: skip
"""Key -> another value and the jobs of which it is a setting; what follows is planned, too."""


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_key_reruns_what_depends_on_it_and_nothing_else(tree: Workplace, jobs: dict[str, list[str]], key: str) -> None:
    value, patterns = CHANGES[key]
    with configured(tree, set_key(photos_config(), key, value)):
        assert planned(tree) == with_what_follows(like(jobs, *patterns), jobs)


@pytest.mark.slow
def test_two_changed_keys_plan_what_each_of_them_plans_in_one_call(tree: Workplace) -> None:
    effective = {key: value for key, (value, patterns) in CHANGES.items() if patterns}
    single = {}
    for key, value in effective.items():
        with configured(tree, set_key(photos_config(), key, value)):
            single[key] = planned(tree)
    wrong = {}
    for first, second in itertools.combinations(effective, 2):
        config = set_key(set_key(photos_config(), first, effective[first]), second, effective[second])
        with configured(tree, config):
            missing = (single[first] | single[second]) - planned(tree)
        if missing:
            wrong[first, second] = sorted(missing)
    assert wrong == {}


@pytest.mark.parametrize("change", ["added", "removed", "replaced", "touched", "hidden"])
def test_the_manifest_notices_what_happens_to_the_images(tree: Workplace, jobs: dict[str, list[str]], change: str) -> None:
    image = tree.folder / "photos/cats/1.jpg"
    before = image.stat()
    if change == "removed":
        with set_aside(image):
            found = planned(tree)
    elif change in ("added", "hidden"):
        new = image.with_name("3.jpg" if change == "added" else ".3.jpg")
        new.touch()
        found = planned(tree)
        new.unlink()
    else:
        image.write_bytes(b"IMAGE" if change == "replaced" else b"image")  # of equal size
        found = planned(tree)
        image.write_bytes(b"image")
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    expected = set() if change == "hidden" else with_what_follows({"write_manifest photos"}, jobs)
    assert found == expected
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


def status_of(tree: Workplace) -> list[Any]:
    """What is to do by `cdgmae status`, asked as it asks."""
    config, now = load_config(tree.config_file), time.time()
    for job in expected_jobs(config):  # which succeeded all
        (tree.folder / job.benchmark).parent.mkdir(parents=True, exist_ok=True)
        (tree.folder / job.benchmark).touch()
    plan = read_plan(config, tree.folder, now)
    assert plan is not None
    return [job for job in expected_jobs(config) if judge(job, tree.folder, now, plan).state == "to do"]


@pytest.mark.parametrize(
    ("lost", "key", "value"),
    [
        (None, "seed", 0),
        ("results/views/s_ldm/00001.tar", "seed", 0),
        ("results/pretrain/cdg/seed0/panels", "seed", 0),
        (f"results/report/{INSIDE}", "seed", 0),
        (None, "views.sources.s_ldm.sampling.guidance_scale", 2.0),
        ("results/shards/photos/00000.tar", "consistency.image_size", 32),
    ],
)
def test_status_has_to_do_what_snakemake_plans(tree: Workplace, lost: str | None, key: str, value: Any) -> None:
    with configured(tree, set_key(photos_config(), key, value)), set_aside(tree.folder / lost) if lost else nullcontext():
        wanted = Counter(job.split()[0] for job in planned(tree))
        assert Counter(job.rule for job in status_of(tree)) == wanted
    assert bool(wanted) == (lost is not None or key != "seed")


def test_beside_a_run_what_it_set_out_to_make_is_to_do_until_it_is_made_again(
    tree: Workplace, jobs: dict[str, list[str]]
) -> None:
    lock, record = tree.folder / ".snakemake/locks/0.input.lock", tree.folder / RECORD
    before = record.read_text()
    files = [file for job in like(jobs, r"score_views s_ldm \d+") for file in jobs[job]]
    try:
        lock.touch()
        record.write_text(json.dumps(json.loads(before) | {"planned": files, "started": time.time() + 60}))
        assert [job.rule for job in status_of(tree)] == ["score_views"] * 2
        record.write_text(json.dumps(json.loads(before) | {"planned": files, "started": 0.0}))
        assert status_of(tree) == []
    finally:
        lock.unlink()
        record.write_text(before)


STAGES = {
    "shards": ["write_manifest", "write_shard", "summarise_shards"],
    "views": ["train_generator", "make_views", "gather_views", "embed_images", "index_embeddings"],
    "consistency": ["score_views", "summarise_consistency"],
    "pretrain": ["pretrain_encoder"],
    "propagation": ["prepare_davis", "propagate_labels", "summarise_propagation"],
    "report": ["write_report"],
    "tables": ["write_table"],
}


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


IMAGES = ["added", "removed", "replaced", "written again"]
"""What may happen to an image of the user's; each plans what a lost manifest does."""


def test_the_page_on_what_reruns_says_what_these_tests_hold(jobs: dict[str, list[str]], request: pytest.FixtureRequest) -> None:
    stage_of = {rule: "report" if stage == "tables" else stage for stage, rules in STAGES.items() for rule in rules}
    manifest = with_what_follows({"write_manifest photos"}, jobs)
    rows = [Row("shards", f"an image is {change}", manifest) for change in IMAGES]
    for stage in dict.fromkeys(stage_of.values()):
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
