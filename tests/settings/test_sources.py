"""View sources by kind: which keys each takes, what a data set cannot give, and which rule fills which bags."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdgmae.config import ConfigError, check_config
from cdgmae.workflow import encoders, pretrain, views
from cdgmae.workflow.named_files import check_run

ROOT = Path(__file__).parents[2]
DEMO: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
SOURCES = {
    "near": {"kind": "knn", "dataset": "demo", "encoder": {"run": "conditioning"}, "num_views": 3, "duplicate_similarity": 0.9},
    "far": {"kind": "random", "dataset": "demo", "num_views": 2},
    "frames": {"kind": "video", "dataset": "clips", "num_views": 8, "frame_step": 1},
    "svd": {"kind": "diffusers", "dataset": "demo", "pipeline": "StableVideoDiffusionPipeline", "hub": "owner/name",
            "frames_are_views": True, "arguments": {"num_frames": 14}, "batch_size": 2},
    "rcg": {"kind": "rcg", "dataset": "demo", "generator": "s_ldm"},
}  # fmt: skip
CLIPS = {
    "path": "data/demo/DAVIS/JPEGImages/480p",
    "layout": "clips",
    "num_shards": 1,
    "resize": "shorter_side",
    "image_size": 96,
}


def config_with(source: str = "", **changes: Any) -> dict[str, Any]:
    """The demo with a source of every kind; `changes` go into one of them, None removes a key."""
    values = copy.deepcopy(DEMO)
    values["shards"]["datasets"]["clips"] = dict(CLIPS)
    values["views"]["sources"] |= copy.deepcopy(SOURCES)
    if source:
        section = values["views"]["sources"][source]
        section.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del section[key]
    return values


REFUSED = [
    ("near", {"kind": "kn"}, r"views\.sources\.near\.kind = 'kn': no such kind; allowed: s_ldm, rcg, crops, knn, .*did you mean 'knn'"),
    ("near", {"kind": None}, r"views\.sources\.near\.kind: required and not given; one of s_ldm, rcg"),
    ("near", {"encoder": None}, r"views\.sources\.near\.encoder: required and not given"),
    ("near", {"num_view": 3}, r"views\.sources\.near\.num_view: unknown key; allowed: .*did you mean 'num_views'"),
    ("near", {"encoder": {"runs": "x"}}, r"views\.sources\.near\.encoder\.runs: unknown key; .*did you mean 'run'"),
    ("near", {"encoder": {"run": "condition"}}, r"near\.encoder\.run = 'condition': no such name; .*did you mean 'conditioning'"),
    ("near", {"num_views": 65}, r"views\.sources\.near\.num_views = 65: input should be less than or equal to 64"),
    ("far", {"sampling": {}}, r"views\.sources\.far\.sampling: unknown key; allowed: num_views, dataset, kind"),
    ("far", {"dataset": "dem"}, r"views\.sources\.far\.dataset = 'dem': no such name"),
    ("frames", {"dataset": "demo"}, r"frames: kind video takes frames of clips, but shards\.datasets\.demo\.layout = 'images'"),
    ("frames", {"num_views": 64}, r"frames: its bags reach 64 frames .*clips\.frames_after = 48 .*raise that to 64"),
    ("frames", {"frame_gap": [4, 47]}, r"either frame_gap .* or frame_step"),
    ("frames", {"frame_step": None, "num_views": 45}, r"num_views = 45, but frame_gap = \[4, 47\] has only 44 different distances"),
    ("frames", {"frame_step": None, "frame_gap": [9, 3]}, r"frame_gap = \[9, 3\] is no range of distances"),
    ("svd", {"hub": None}, r"views\.sources\.svd: give either `path` .* or `hub`"),
    ("svd", {"arguments": {"image": "x.png"}}, r"svd: arguments\.image is set by image_argument"),
    ("rcg", {"generator": "x"}, r"views\.sources\.rcg\.generator = 'x': no such name; allowed: s_ldm"),
    ("rcg", {"sampling": {"stps": 3}}, r"views\.sources\.rcg\.sampling\.stps: unknown key"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "changes", "message"), REFUSED, ids=[f"{name}-{changes}" for name, changes, _ in REFUSED])
def test_sources_that_cannot_run_are_refused_with_key_and_remedy(source: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(config_with(source, **changes))


def test_a_bag_larger_than_the_demo_is_refused() -> None:
    values = config_with("far", num_views=24)
    values["demo"]["num_tiles"] = 24
    with pytest.raises(ConfigError, match=r"views\.sources\.far\.num_views = 24, but the demo has only 24 images"):
        check_config(values)


def test_neighbours_found_by_a_run_that_trains_on_them_are_circular() -> None:
    values = config_with("near", encoder={"run": "cdg"})
    values["pretrain"]["runs"]["cdg"]["source"] = "near"
    with pytest.raises(ConfigError, match=r"views\.sources\.near: circular, near <- near"):
        check_config(values)
    values["pretrain"]["runs"]["cdg"]["source"] = "far"
    check_config(values)


def test_too_few_views_name_the_key_to_raise() -> None:
    values = config_with()
    values["pretrain"]["runs"]["cdg"] |= {"source": "far", "num_anchors": 3}
    with pytest.raises(ConfigError, match=r"raise views\.sources\.far\.num_views"):
        check_config(values)


def test_video_pairs_need_frames_at_equal_distances() -> None:
    values = config_with()
    values["pretrain"]["runs"]["cdg"] |= {"source": "frames", "pretext": "video_pairs", "num_anchors": 1}
    check_config(values)
    for source, changes in (("near", {}), ("frames", {"frame_step": None})):
        wrong = config_with("frames", **changes)
        wrong["pretrain"]["runs"]["cdg"] |= {"source": source, "pretext": "video_pairs", "num_anchors": 1}
        with pytest.raises(ConfigError, match=r"runs\.cdg\.pretext = 'video_pairs' draws its own pairs .* frame_step: 1"):
            check_config(wrong)


def test_the_overlay_of_table_1_fits_the_papers_settings() -> None:
    def merged(base: Any, overlay: Any) -> Any:
        if not (isinstance(base, dict) and isinstance(overlay, dict)):
            return overlay
        return {**base, **{key: merged(base.get(key), value) for key, value in overlay.items()}}

    paper, table = (yaml.safe_load((ROOT / f"workflow/experiments/{name}.yaml").read_text()) for name in ("paper", "table1"))
    config = check_config(merged(paper, table))
    assert {name: config.views.sources[name].kind for name in config.consistency.sources} == {
        "s_ldm": "s_ldm", "video": "video", "knn": "knn", "random": "random",
    }  # fmt: skip


def test_a_pipeline_folder_must_exist_and_a_name_on_the_hub_need_not(tmp_path: Path) -> None:
    check_run(config_with(), "config.yaml")
    with pytest.raises(ConfigError, match=r"views\.sources\.svd\.path = 'data/svd'"):
        check_run(config_with("svd", hub=None, path="data/svd"), "config.yaml")


def test_each_job_gets_the_settings_that_change_its_result() -> None:
    jobs = check_config(config_with())
    assert json.loads(views.view_settings(jobs, "near")) == {
        "kind": "knn", "num_views": 3, "duplicate_similarity": 0.9,
    }  # fmt: skip
    assert views.knn_source(jobs, "near").embedding.model_dump() == {"image_size": 224, "batch_size": 64}
    assert set(views.knn_source(jobs, "near").index.model_dump()) == {"exact_up_to", "num_probes"}
    clips = json.loads(views.view_settings(jobs, "frames"))
    assert (clips["path"], clips["resize"], clips["image_size"], clips["frame_step"]) == (CLIPS["path"], "shorter_side", 96, 1)
    for source, batch_size in (("svd", 2), ("s_ldm", DEMO["views"]["sources"]["s_ldm"]["sampling"]["batch_size"]), ("far", 1)):
        assert "batch_size" not in json.loads(views.view_settings(jobs, source))
        assert views.view_batch_size(jobs, source) == batch_size
    with pytest.raises(ConfigError, match=r"views\.sources\.far is of kind random"):
        views.knn_source(jobs, "far")


def test_the_source_says_what_its_views_show_and_runs_get_it() -> None:
    values = config_with()
    values["views"]["sources"]["edited"] = {"kind": "folder", "dataset": "demo", "root": "edited", "views_show": "central_square"}
    run = values["pretrain"]["runs"]["cdg"]
    sources = {"s_ldm": "central_square", "rcg": "central_square", "svd": "central_square", "edited": "central_square"}
    for source, region in (sources | dict.fromkeys(("near", "far", "frames"), "whole_image")).items():
        values["pretrain"]["runs"]["cdg"] = {**run, "source": source, "num_anchors": 1}
        assert pretrain.run_settings(check_config(values), "cdg").views_show == region
    values["pretrain"]["runs"]["cdg"] = {**run, "views_show": "whole_image"}
    assert pretrain.run_settings(check_config(values), "cdg").views_show == "whole_image"
    assert pretrain.run_settings(check_config(values), "conditioning").views_show is None


def test_each_job_waits_for_what_its_source_reads() -> None:
    jobs = check_config(config_with("svd", hub=None, path="data/svd"))
    summary = "results/shards/demo/summary.parquet"
    expected = {
        "s_ldm": ["results/generators/s_ldm"], "rcg": ["results/generators/s_ldm"], "svd": ["data/svd"], "far": [summary],
        "near": [summary, "results/embeddings/near/index.faiss"], "frames": [],
    }  # fmt: skip
    assert {source: views.view_inputs(jobs, source) for source in expected} == expected
    assert (
        views.view_input_flags(jobs, "near")
        == "--input shards=results/shards/demo --input index=results/embeddings/near/index.faiss"
    )
    assert views.view_input_flags(jobs, "frames") == ""
    assert encoders.encoder_files(views.knn_source(jobs, "near").encoder) == [
        "results/pretrain/conditioning/seed0/encoder.safetensors"
    ]
    assert (views.sources_on_gpu(jobs, True), views.sources_on_gpu(jobs, False)) == ("s_ldm|svd|rcg", "near|far|frames")
    assert (views.sources_of_kind(jobs, "knn"), views.sources_of_kind(check_config(DEMO), "knn")) == ("near", "(?!)")
