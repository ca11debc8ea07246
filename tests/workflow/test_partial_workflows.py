"""Sections that are not there are not run: one part of the method alone, planned and run to its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pretrain.drawn_bags import RUN, write_bags
from tests.propagation.drawn_clips import write_davis
from tests.workflow.conftest import Workplace
from tests.workflow.planning import planned

SHARDS = {"datasets": {"photos": {"path": "bags/shards", "layout": "webdataset", "num_shards": 1}}}
BAGS = {"made": {"kind": "folder", "dataset": "photos", "root": "bags/views", "num_views": 3}}
SIZES = {name: value for name, value in RUN.model_dump(mode="json").items() if name in RUN.model_fields_set}

PARTS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "scored views": (
        {
            "shards": SHARDS,
            "views": {"sources": {"others": {"kind": "random", "dataset": "photos", "num_views": 2}}},
            "consistency": {"sources": ["others"], "encoder": {"pixels": 8}, "image_size": 32},
        },
        [
            "write_manifest photos", "list_left_out photos", "write_shard photos 00000", "summarise_shards photos", "gather_views others 00000",
            "score_views others 00000", "summarise_consistency",
        ],
        "The configuration names nothing of stage propagation.",
    ),
    "encoders judged": (
        {
            "propagation": {
                "datasets": {"davis": {"root": "DAVIS", "input_size": [48, 64], "radius": 3}},
                "encoders": {"floor": {"pixels": 8}},
            }
        },
        ["propagate_labels floor davis", "summarise_propagation"],
        "The configuration names nothing of stage shards.",
    ),
    "pre-training from bags that exist": (
        {"shards": SHARDS, "views": {"sources": BAGS}, "pretrain": {"runs": {"cdg": SIZES | {"source": "made", "epochs": 1}}}},
        [
            "write_manifest photos", "list_left_out photos", "write_shard photos 00000", "summarise_shards photos", "gather_views made 00000",
            "pretrain_encoder cdg 0",
        ],
        "The configuration names nothing of stage consistency.",
    ),
}  # fmt: skip


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Workplace, list[str], str]:
    config, jobs, sentence = PARTS[request.param]
    write_bags(tmp_path / "bags", num_bags=8)
    write_davis(tmp_path / "DAVIS")
    place = Workplace(tmp_path)
    place.write_config(config)
    return place, [*jobs, "write_report"], sentence


def test_a_part_plans_its_own_jobs_alone(part: tuple[Workplace, list[str], str]) -> None:
    place, jobs, _ = part
    assert planned(place) == set(jobs)


@pytest.mark.slow
def test_a_part_ends_in_its_report(part: tuple[Workplace, list[str], str]) -> None:
    place, _, sentence = part
    done = place.run("--show-failed-logs")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert sentence in (place.folder / "results/report/index.html").read_text()
    assert planned(place) == set()
