"""`cdgmae status` has to do what Snakemake plans."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest

from cdgmae.config import load_config
from cdgmae.status.evidence import judge
from cdgmae.status.expected import expected_jobs
from cdgmae.status.plan import read_plan
from cdgmae.workflow.last_run import RECORD
from tests.workflow.conftest import Workplace, set_key
from tests.workflow.finished_tree import INSIDE, configured, like, photos_config, set_aside
from tests.workflow.planning import planned

pytestmark = pytest.mark.usefixtures("forked_commands")


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
