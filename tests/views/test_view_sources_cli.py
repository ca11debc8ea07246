"""Every source of real images from the command line: packed, filled, scored and trained on, as the rules call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from tests.generators.conftest import KEYS, image

pytest.importorskip("faiss", reason="kind knn needs faiss: pip install 'cdgmae[knn]'")
pytest.importorskip("av", reason="kind video needs PyAV: pip install 'cdgmae[video]'")
from tests.video_files import write_video

RUN = {
    "image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1,
    "decoder_num_heads": 2, "num_anchors": 1, "target_masking_ratio": 0.5, "epochs": 2, "warmup_epochs": 1, "effective_batch_size": 4,
}  # fmt: skip


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image shards of stills and of clips."""
    root = tmp_path_factory.mktemp("data")
    (root / "animals").mkdir()
    for number, key in enumerate(KEYS):
        (root / "animals" / f"{key}.jpg").write_bytes(image(key))
        write_video(root / "clips" / f"{key}.mp4", 20 + number)
    run("shards", "write", "--root", root / "animals", "--output", root / "stills", "--settings", "num_shards=2")
    clips = {"path": str(root / "clips"), "layout": "clips", "frames_after": 8}
    run("shards", "write", "--settings", json.dumps(clips), "--output", root / "firsts", "--settings", "num_shards=1")
    return root


def fill(source: str, packed: Path, folder: Path) -> tuple[Path, Path]:
    """Folders of the real shards and of the view shards of one source."""
    reals, views, embeddings = packed / ("firsts" if source == "video" else "stills"), folder / "views", folder / "embeddings"
    settings: dict[str, object] = {"kind": source, "num_views": 2}
    inputs: list[object] = []
    if source == "video":
        settings |= {"num_views": 8, "frame_step": 1, "path": str(packed / "clips")}
    if source == "knn":
        for tar in sorted(reals.glob("*.tar")):
            run("views", "embed", "--shard", tar, "--encoder", "pixels:8", "--output", embeddings / f"{tar.stem}.parquet",
                "--settings", '{"image_size": 16}', "--device", "cpu")  # fmt: skip
        run("views", "index", "--embeddings", embeddings, "--output", embeddings / "index.faiss")
        inputs = ["--input", f"index={embeddings / 'index.faiss'}"]
    for tar in sorted(reals.glob("*.tar")):
        result = run("views", "make", "--settings", json.dumps(settings), "--shard", tar, *inputs, "--output", views / tar.name)
        assert result["views"] > 0
    return reals, views


@pytest.mark.parametrize("source", ["knn", "random", "video"])
def test_bags_of_every_source_are_whole_scored_and_trained_on(source: str, packed: Path, tmp_path: Path) -> None:
    reals, views = fill(source, packed, tmp_path)
    assert run("verify", views)["bad_files"] == 0
    first = sorted(views.glob("*.tar"))[0]
    scores = run("consistency", "score", "--real", reals / first.name, "--views", first, "--encoder", "pixels:8", "--source", source,
                 "--output", tmp_path / "scores.parquet", "--settings", '{"image_size": 16}', "--device", "cpu")  # fmt: skip
    assert scores["pairs"] > 0
    assert scores["bad"] == 0
    settings = {**RUN, "pretext": "video_pairs" if source == "video" else "cross_view"}
    trained = run("pretrain", "run", "--settings", json.dumps(settings), "--shards", reals, "--views", views, "--output", tmp_path / "run",
                  "--device", "cpu")  # fmt: skip
    assert trained["bags"] == len(KEYS)
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


REFUSED = [
    ('{"num_views": 2}', [], r"--settings: kind = None; allowed: s_ldm, rcg, knn, random, video"),
    ('{"kind": "randm"}', [], r"kind = 'randm'; allowed: .*did you mean 'random'"),
    ('{"kind": "crops"}', [], r"kind = 'crops'; allowed: s_ldm"),
    ('{"kind": "random", "num_viws": 2}', [], r"num_viws: unknown key; allowed: num_views .did you mean 'num_views'"),
    ('{"kind": "knn"}', [], r"reads index: give --input index=PATH"),
    ('{"kind": "random"}', ["--input", "index"], r"--input index: give NAME=PATH"),
    ('{"kind": "random"}', ["--input", "index=a", "--input", "index=b"], r"--input index=b: .*each name once"),
]


@pytest.mark.parametrize(("settings", "more", "message"), REFUSED)
def test_wrong_kinds_keys_and_inputs_are_refused(
    settings: str, more: list[str], message: str, packed: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(
            "views",
            "make",
            "--settings",
            settings,
            "--shard",
            packed / "stills" / "00000.tar",
            "--output",
            tmp_path / "v.tar",
            *more,
        )
