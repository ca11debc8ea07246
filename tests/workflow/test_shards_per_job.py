"""`runtime.shards_per_job`: what another division reruns, that profiles reach the generated rules, and that files stay the same."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from cdgmae.blocks import base_rule
from tests.workflow.conftest import ROOT, Workplace, set_key, tiny_config
from tests.workflow.test_workflow_status import every_kind_of_source, snakemakes_outputs

FOLDERS = ("results/generators/", "results/report", "/panels", "/strips/")
RESCORED = {"score_views", "summarise_consistency", "write_table", "write_report"}
VIEW_RULES = {"sample_views", "sample_pipeline", "embed_images", "index_embeddings", "gather_neighbours", "gather_random"}
PROBE = f"""
include: "{ROOT / "Snakefile"}"

for each in workflow.rules:
    each.message = None  # in whose place a dry run prints a job's resources
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A run with one shard per job as Snakemake records it; the files are empty, since only their names and times matter."""
    place = Workplace(tmp_path_factory.mktemp("recorded"))
    place.write_config(every_kind_of_source())
    for output in snakemakes_outputs(place):
        path = place.folder / output
        if any(part in output for part in FOLDERS):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    done = place.run("--touch", "--forceall", "--quiet", "all")
    assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.mark.parametrize(
    ("changes", "rerun"),
    [
        ({"runtime.shards_per_job": 1}, set()),
        ({"runtime.shards_per_job": 2}, RESCORED),
        (
            {"runtime.shards_per_job": 2, "shards.datasets.demo.jpeg_quality": 80},
            {
                "write_manifest",
                "write_shard",
                "summarise_shards",
                "train_generator",
                "pretrain_encoder",
                "propagate_labels",
                "summarise_propagation",
            }
            | VIEW_RULES
            | RESCORED,
        ),
    ],
    ids=["nothing", "two shards per job", "other packing"],
)
def test_another_division_makes_no_shard_view_or_training_anew(
    recorded: Workplace, changes: dict[str, Any], rerun: set[str]
) -> None:
    config = every_kind_of_source()
    for key, value in changes.items():
        config = set_key(config, key, value)
    recorded.write_config(config)
    assert {base_rule(rule) for rule in recorded.planned_jobs()} == rerun


def test_views_are_planned_anew_while_shards_of_another_packing_are_still_to_be_written(
    recorded: Workplace, tmp_path: Path
) -> None:
    shutil.copytree(recorded.folder, tmp_path / "copy")
    place = Workplace(tmp_path / "copy")
    place.write_config(set_key(every_kind_of_source(), "shards.datasets.demo.jpeg_quality", 80))
    assert place.run("results/shards/demo/manifest.parquet", "--touch", "--quiet", "all").returncode == 0
    planned = place.planned_jobs()
    assert "write_manifest" not in planned
    assert {"write_shard", *VIEW_RULES} <= set(planned)


def planned_resources(place: Workplace, shards_per_job: int) -> dict[str, tuple[str, list[str]]]:
    """Rule of every job that samples views -> its threads and resources."""
    place.write_config(set_key(tiny_config(), "runtime.shards_per_job", shards_per_job))
    (place.folder / "probe.smk").write_text(PROBE)
    done = place.run("--dry-run", "--snakefile", str(place.folder / "probe.smk"), "--profile", str(place.folder), "views")
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for rule, facts in re.findall(r"^rule (sample_views\w*):\n((?: {4}.*\n)+)", done.stderr + done.stdout, re.MULTILINE):
        lines = dict(line.strip().split(": ", 1) for line in facts.splitlines())
        found[rule] = (lines["threads"], sorted(lines["resources"].split(", ")))
    return found


def test_profiles_reach_the_rules_of_blocks_as_they_do_those_of_single_shards(tmp_path: Path) -> None:
    asked = {
        "slurm_partition": "gpu",
        "gres": "gpu:1",
        "mem_mb": "64000 * min(attempt, 2)",
        "runtime": 77,
        "slurm_extra": "'--exclusive'",
    }
    profile = {"set-resources": {"sample_views": asked}, "set-threads": {"sample_views": 2}}
    (tmp_path / "config.v8+.yaml").write_text(yaml.safe_dump(profile))
    place = Workplace(tmp_path)
    single, block = planned_resources(place, 1)["sample_views"], planned_resources(place, 2)["sample_views_s_ldm_00000"]
    assert block == single
    assert block[0] == "2"
    assert {"slurm_partition=gpu", "gres=gpu:1", "mem_mb=64000", "runtime=77", "slurm_extra=--exclusive"} <= set(block[1])


@pytest.mark.slow
def test_files_of_jobs_with_two_shards_are_those_of_jobs_with_one(tmp_path: Path) -> None:
    config = set_key(tiny_config(), "shards.datasets.demo.num_shards", 3)
    config["views"] = {
        "generators": {},
        "sources": {"crops": {"kind": "crops", "dataset": "demo"}, "far": {"kind": "random", "dataset": "demo", "num_views": 2}},
    }
    config["consistency"] = {"sources": ["far"], "encoder": {"pixels": 8}, "image_size": 64}
    config["pretrain"]["runs"] = {"crops": config["pretrain"]["runs"]["crops"]}
    config["propagation"]["encoders"] = {"crops": {"run": "crops"}}
    config["report"].pop("tables")
    places = [Workplace(tmp_path / str(number)) for number in (1, 2)]
    for number, place in enumerate(places, start=1):
        place.folder.mkdir()
        place.write_config(set_key(config, "runtime.shards_per_job", number))
        done = place.run("consistency", "--show-failed-logs")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert (places[1].folder / "logs/score_views/far/00000-00001.log").is_file()
    single, double = (
        {str(path.relative_to(place.folder)): path for path in (place.folder / "results").rglob("*.*")} for place in places
    )
    assert sorted(single) == sorted(double)
    for name, path in single.items():
        if not name.startswith("results/consistency"):
            assert path.read_bytes() == double[name].read_bytes(), name
        elif path.suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(double[name]), obj=name)
    places[0].write_config(set_key(config, "runtime.shards_per_job", 2))
    planned = {base_rule(rule) for rule in places[0].planned_jobs("consistency")}
    assert planned == {"score_views", "summarise_consistency", "consistency"}
