"""A tree of results that Snakemake holds for finished, and what must follow where something in it is made again.

Its files hold a word, since only names, sizes, times and recorded parameters matter to a plan. `BEHIND` says by hand, and so once more, which jobs
read what a job writes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdgmae.storage.files.records import record_path, write_record
from tests.workflow.conftest import Workplace, tiny_config
from tests.workflow.planning import outputs_of_jobs, planned, stand_in_set

BEHIND = [
    (r"write_manifest photos", [r"list_left_out photos", r"write_shard photos \d+", r"summarise_shards photos"]),
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
FRAME = "00000.jpg"
"""A file of every evaluation set."""


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


def make_tree(folder: Path, config: dict[str, Any] | None = None) -> Workplace:
    """The finished tree of `photos_config`, or of a configuration like it."""
    place = Workplace(folder)
    config = config or photos_config()
    place.write_config(config)
    for folder in ("photos/cats", "photos/dogs"):
        (place.folder / folder).mkdir(parents=True)
    for name in config["propagation"]["datasets"]:
        stand_in_set(place.folder / name, name)
        (place.folder / name / FRAME).write_bytes(b"frame")
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


STAGES = {
    "shards": ["write_manifest", "list_left_out", "write_shard", "summarise_shards"],
    "views": ["train_generator", "make_views", "gather_views", "embed_images", "index_embeddings"],
    "consistency": ["score_views", "summarise_consistency"],
    "pretrain": ["pretrain_encoder"],
    "propagation": ["prepare_davis", "propagate_labels", "summarise_propagation"],
    "report": ["write_report"],
    "tables": ["write_table"],
}
"""Stage -> its rules."""
