"""Finished views, embeddings and generators are found again when the declared outputs were deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.storage.files.output_cache import FinishedCopy
from cdgmae.storage.image_shards import index_path
from cdgmae.views.gathering.copying import DataSetImages
from cdgmae.views.sampling.generator_sampler import GeneratorRecipe
from tests.views.conftest import ENCODER, KEYS, training_settings, write_shard

SAMPLING = {"num_views": 2, "num_inference_steps": 2, "batch_size": 8}


class Killed(BaseException):
    """Stands for `kill -9`."""


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.strip().splitlines()[-1])


def sample(tar: Path, generator: Path, output: Path, *more: object, **changes: object) -> dict:
    settings = json.dumps({**SAMPLING, **changes})
    return run(
        "views", "sample", "--shard", tar, "--generator", generator, "--output", output, "--settings", settings, "--device", "cpu",
        "--work", output.parent / "work", "--finished", output.parent / "kept", *more,
    )  # fmt: skip


def delete(tar: Path) -> tuple[bytes, bytes]:
    """Delete a shard, as Snakemake does; returns its bytes."""
    files = (tar, index_path(tar))
    data = tuple(file.read_bytes() for file in files)
    for file in files:
        file.unlink()
    return data[0], data[1]


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return write_shard(tmp_path / "real" / "00000.tar", KEYS[:3])


def test_deleted_views_come_back_without_a_model(
    tar: Path, generator_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "views" / "00000.tar"
    made = sample(tar, generator_dir, output)
    before = delete(output)
    with monkeypatch.context() as patched:
        patched.delattr(GeneratorRecipe, "open")
        facts = sample(tar, generator_dir, output, "--batch-size", 2, "--precision", "bf16", "--workers", 2)
        assert delete(output) == before
    assert facts["restored"]
    assert (made["found_finished"], facts["found_finished"], facts["views"]) == (0, 6, 6)
    assert "restored" not in sample(tar, generator_dir, output, "--no-reuse-finished")
    assert delete(output) == before
    assert "restored" not in sample(tar, generator_dir, output, "--seed", 1)
    assert delete(output) != before
    assert "restored" not in sample(tar, generator_dir, output, "--seed", 1, num_views=1)


def test_a_kill_between_commit_and_record_loses_no_view(
    tar: Path, generator_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "views" / "00000.tar"

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(FinishedCopy, "keep", killed)
        with pytest.raises(Killed):
            sample(tar, generator_dir, output)
    before = delete(output)
    with monkeypatch.context() as patched:
        patched.delattr(GeneratorRecipe, "open")
        assert sample(tar, generator_dir, output)["found_finished"] == 6
    assert delete(output) == before
    assert not (output.parent / "work").exists()


def test_a_shard_of_several_is_found_alone(generator_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars = [write_shard(tmp_path / "real" / f"0000{n}.tar", KEYS[2 * n : 2 * n + 2]) for n in range(2)]
    output, common = tmp_path / "views", ("--generator", generator_dir, "--settings", json.dumps(SAMPLING), "--device", "cpu")

    def sample_both() -> dict:
        shards = ("--shard", tars[0], "--shard", tars[1])
        return run("views", "sample", *shards, *common, "--output", output, "--finished", tmp_path / "kept")

    assert "restored" not in sample_both()
    before = [delete(output / tar.name) for tar in tars]
    (tmp_path / "kept" / "00001.tar").write_bytes(b"damaged")
    assert (facts := sample_both())["restored"] == 1
    assert (facts["views"], facts["found_finished"]) == (8, 4)
    assert [delete(output / tar.name) for tar in tars] == before


def test_deleted_embeddings_come_back_without_the_encoder(tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "embeddings" / "00000.parquet"

    def embed() -> dict:
        return run(
            "views", "embed", "--shard", tar, "--encoder", ENCODER, "--output", output, "--settings", '{"image_size": 16}',
            "--finished", tmp_path / "kept", "--device", "cpu",
        )  # fmt: skip

    embed()
    before = output.read_bytes()
    output.unlink()
    monkeypatch.delattr("cdgmae.models.encoders.by_name._load")
    assert embed()["restored"]
    assert output.read_bytes() == before


def test_deleted_random_views_come_back_without_reading_a_image(
    tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "views" / "00000.tar"

    def fill(seed: int = 0) -> dict:
        return run(
            "views", "random", "--shard", tar, "--shards", tar.parent, "--output", output, "--seed", seed,
            "--settings", '{"num_views": 1}', "--finished", tmp_path / "kept",
        )  # fmt: skip

    fill()
    before = delete(output)
    with monkeypatch.context() as patched:
        patched.delattr(DataSetImages, "data")
        assert fill()["restored"]
    assert delete(output) == before
    assert "restored" not in fill(seed=1)


def test_deleted_neighbours_come_back_without_a_search(tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="kind knn needs faiss: pip install 'cdgmae[knn]'")
    embeddings, output = tmp_path / "embeddings", tmp_path / "views" / "00000.tar"
    run("views", "embed", "--shard", tar, "--encoder", "pixels:8", "--output", embeddings / "00000.parquet", "--settings",
        '{"image_size": 16}', "--device", "cpu")  # fmt: skip
    run("views", "index", "--embeddings", embeddings, "--output", embeddings / "index.faiss")

    def fill() -> dict:
        return run(
            "views", "neighbours", "--shard", tar, "--shards", tar.parent, "--embeddings", embeddings, "--output", output,
            "--index", embeddings / "index.faiss", "--settings", '{"num_views": 1}', "--finished", tmp_path / "kept",
        )  # fmt: skip

    fill()
    before = delete(output)
    with monkeypatch.context() as patched:
        patched.delattr(DataSetImages, "data")
        assert fill()["restored"]
    assert delete(output) == before


def test_deleted_frames_come_back_until_a_clip_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="kind video needs PyAV: pip install 'cdgmae[video]'")
    from tests.video_files import write_video

    clips, output = tmp_path / "clips", tmp_path / "views" / "00000.tar"
    for key in KEYS[:2]:
        write_video(clips / f"{key}.mp4", 20)
    layout = {"path": str(clips), "layout": "clips", "frames_after": 8}
    run("shards", "write", "--settings", json.dumps(layout), "--output", tmp_path / "real", "--num-shards", 1)

    def read() -> dict:
        settings = json.dumps({"num_views": 2, "frame_gap": [2, 6], "path": str(clips)})
        real = tmp_path / "real" / "00000.tar"
        return run("views", "video", "--shard", real, "--settings", settings, "--output", output, "--finished", tmp_path / "kept")

    read()
    before = delete(output)
    with monkeypatch.context() as patched:
        patched.delattr("cdgmae.views.gathering.clip_frames.open_clip")
        assert read()["restored"]
    assert delete(output) == before
    write_video(clips / f"{KEYS[0]}.mp4", 21)
    assert "restored" not in read()


def test_a_deleted_generator_comes_back_without_training(tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "generators" / "animals"

    def train(**changes: object) -> dict:
        return run(
            "views", "train-generator", "--shards", tar.parent, "--encoder", ENCODER, "--output", output, "--device", "cpu",
            "--settings", training_settings(**changes).canonical_json(), "--finished", tmp_path / "kept",
        )  # fmt: skip

    made = train()
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    shutil.rmtree(output)
    with monkeypatch.context() as patched:
        patched.delattr("cdgmae.generators.train.generator_training.train")
        assert train() == {**made, "restored": True}
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert "restored" not in train(num_steps=5)
