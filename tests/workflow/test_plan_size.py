"""The plan grows with the number of shards, not with its square; a run waits for every shard that it reads."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from cdgmae.config import check_config
from cdgmae.workflow import pretrain
from tests.workflow.conftest import Workplace, tiny_config

SHARDS = 12
SOURCES = {
    "near": {"kind": "knn", "dataset": "demo", "encoder": {"pixels": 8}, "image_size": 64, "num_views": 2},
    "far": {"kind": "random", "dataset": "demo", "num_views": 2},
}
PER_SHARD = {"write_shard", "make_views", "embed_images", "gather_views", "score_views"}


def test_no_job_of_one_shard_waits_for_the_jobs_of_all_shards(tmp_path: Path) -> None:
    config = tiny_config()
    config["shards"]["datasets"]["demo"]["num_shards"] = SHARDS
    config["views"]["sources"] |= SOURCES
    config["consistency"]["sources"] = ["s_ldm", *SOURCES]
    place = Workplace(tmp_path)
    place.write_config(config)
    done = place.run("consistency", "--dag")
    assert done.returncode == 0, done.stderr[-2000:]
    rules = dict(re.findall(r'(\d+)\[label = "(\w+)', done.stdout))
    waits_for = Counter(rules[job] for job in re.findall(r"\d+ -> (\d+)", done.stdout))
    edges_per_job = {rule: waits_for[rule] / list(rules.values()).count(rule) for rule in PER_SHARD}
    assert {rule: edges for rule, edges in edges_per_job.items() if edges > 4} == {}
    assert waits_for["summarise_shards"] == SHARDS + 1


def test_a_run_waits_for_the_real_images_and_a_run_on_views_for_those_too() -> None:
    jobs = check_config(tiny_config())
    files = [f"{number}.{kind}" for number in ("00000", "00001") for kind in ("tar", "parquet")]
    for run in ("cdg", "crops"):
        assert pretrain.run_images(jobs, run) == [f"results/shards/demo/{file}" for file in files]
    assert pretrain.run_views(jobs, "cdg") == [f"results/views/s_ldm/{file}" for file in files]
    assert pretrain.run_views(jobs, "crops") == []
