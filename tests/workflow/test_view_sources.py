"""Which jobs the sources of every kind need, and that all of them are scored by the same rule."""

from __future__ import annotations

from pathlib import Path

from tests.workflow.conftest import Workplace, tiny_config

SOURCES = {
    "near": {"kind": "knn", "dataset": "demo", "encoder": {"pixels": 8}, "image_size": 64, "num_views": 2},
    "far": {"kind": "random", "dataset": "demo", "num_views": 2},
    "frames": {"kind": "video", "dataset": "clips", "num_views": 2, "frame_step": 1},
    "pipeline": {"kind": "diffusers", "dataset": "demo", "pipeline": "StableVideoDiffusionPipeline", "hub": "owner/name"},
    "edited": {"kind": "folder", "dataset": "demo", "root": "edited"},
}


def test_each_kind_of_source_has_its_rules_and_is_scored_by_the_same_one(tmp_path: Path) -> None:
    config = tiny_config()
    clips = {"path": "data/demo/DAVIS/JPEGImages/480p", "layout": "clips", "num_shards": 1, "frames_after": 2}
    config["shards"]["datasets"]["clips"] = clips
    config["views"]["sources"] |= SOURCES
    config["consistency"] = {"sources": list(SOURCES), "encoder": {"pixels": 8}, "image_size": 64}
    (tmp_path / "edited").mkdir()
    place = Workplace(tmp_path)
    place.write_config(config)
    jobs = place.planned_jobs("consistency")
    expected = {
        "embed_images": 2, "index_embeddings": 1, "gather_views": 7, "make_views": 2, "score_views": 9,
    }  # fmt: skip
    assert {name: jobs[name] for name in expected} == expected
