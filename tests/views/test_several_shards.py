"""Several shards in one command: what is loaded is loaded once, what is whole is kept, and the files are those of single shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.runtime.interrupts import Interrupted
from cdgmae.storage.image_shards import index_path
from cdgmae.views.sampling.generator_sampler import GeneratorRecipe
from tests.generators.conftest import KEYS, write_shard

SAMPLING = '{"num_views": 2, "num_inference_steps": 2, "batch_size": 8, "max_bad_fraction": 0.1}'
ENCODER = 'random:{"image_size":16,"patch_size":8,"embed_dim":16,"depth":1,"num_heads":2}'


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.strip().splitlines()[-1])


@pytest.fixture
def tars(tmp_path: Path) -> list[Path]:
    """Three shards of two images each."""
    return [write_shard(tmp_path / "real" / f"0000{n}.tar", KEYS[2 * n : 2 * n + 2]) for n in range(3)]


def named(option: str, tars: list[Path]) -> list[object]:
    return [part for tar in tars for part in (option, tar)]


def sample(generator: Path, tars: list[Path], output: Path) -> dict:
    return run("views", "sample", *named("--shard", tars), "--generator", generator, "--output", output, "--settings", SAMPLING)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The generator folders that are opened, one entry each time."""
    folders: list[Path] = []
    original = GeneratorRecipe.open

    def counting(recipe: GeneratorRecipe, device: object) -> object:
        folders.append(recipe.folder)
        return original(recipe, device)

    monkeypatch.setattr(GeneratorRecipe, "open", counting)
    return folders


def test_views_of_several_shards_are_those_of_single_ones_and_the_generator_is_opened_once(
    generator_dir: Path, tars: list[Path], tmp_path: Path, opened: list[Path]
) -> None:
    together = sample(generator_dir, tars, tmp_path / "together")
    assert len(opened) == 1
    assert {name: together[name] for name in ("shards", "images", "views", "bad")} == {
        "shards": 3, "images": 6, "views": 12, "bad": 0,
    }  # fmt: skip
    for tar in tars:
        sample(generator_dir, [tar], tmp_path / "single" / tar.name)
        assert (tmp_path / "single" / tar.name).read_bytes() == (tmp_path / "together" / tar.name).read_bytes()
    assert not list((tmp_path / "together").glob(".work-*"))


def test_a_failure_keeps_the_other_shards_and_a_rerun_makes_the_failed_one_only(
    generator_dir: Path, tars: list[Path], tmp_path: Path
) -> None:
    output, good = tmp_path / "views", index_path(tars[1]).read_bytes()
    index_path(tars[1]).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"1 of 3 shards failed, the others are whole:\n  00001: .*00001\.parquet"):
        sample(generator_dir, tars, output)
    first = (output / "00000.tar").stat()
    index_path(tars[1]).write_bytes(good)
    assert sample(generator_dir, tars, output)["found_finished"] == 8
    kept = (output / "00000.tar").stat()
    assert (kept.st_mtime_ns, kept.st_ino) == (first.st_mtime_ns, first.st_ino)
    assert sample(generator_dir, tars, output)["found_finished"] == 12


def test_shards_made_otherwise_or_cut_short_are_made_again(generator_dir: Path, tars: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "views"
    whole = (sample(generator_dir, tars, output), (output / "00000.tar").read_bytes())[1]
    (output / "00000.tar").write_bytes(whole[:1000])
    assert sample(generator_dir, tars, output)["found_finished"] == 8
    assert (output / "00000.tar").read_bytes() == whole
    other = run(
        "views", "sample", *named("--shard", tars), "--generator", generator_dir, "--output", output, "--settings", SAMPLING,
        "--seed", 1,
    )  # fmt: skip
    assert other["found_finished"] == 0
    assert (output / "00000.tar").read_bytes() != whole


def test_a_time_limit_stops_before_the_next_shard(
    generator_dir: Path, tars: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDGMAE_TIME_LIMIT", "0")
    with pytest.raises(Interrupted, match="00000"):
        sample(generator_dir, tars, tmp_path / "views")
    assert not list((tmp_path / "views").glob("*.tar"))


def test_several_shards_are_embedded_and_scored_with_one_encoder(generator_dir: Path, tars: list[Path], tmp_path: Path) -> None:
    views, tables, scores = (tmp_path / name for name in ("views", "tables", "scores"))
    sample(generator_dir, tars, views)
    embed = [
        "views",
        "embed",
        *named("--shard", tars),
        "--encoder",
        ENCODER,
        "--output",
        tables,
        "--settings",
        '{"image_size": 16}',
    ]
    assert (run(*embed)["images"], len(list(tables.glob("0000?.parquet")))) == (6, 3)
    score = [
        "consistency", "score", *named("--real", tars), "--views", views, "--encoder", ENCODER, "--source", "s_ldm",
        "--output", scores, "--settings", '{"image_size": 16}', "--work", tmp_path / "work",
    ]  # fmt: skip
    assert (run(*score)["pairs"], len(list(scores.glob("0000?.parquet")))) == (12, 3)
    times = [path.stat().st_mtime_ns for folder in (tables, scores) for path in sorted(folder.iterdir())]
    assert run(*score)["found_finished"] == 12
    run(*embed)
    assert times == [path.stat().st_mtime_ns for folder in (tables, scores) for path in sorted(folder.iterdir())]


def test_one_file_for_several_shards_is_refused(generator_dir: Path, tars: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a folder"):
        sample(generator_dir, tars, tmp_path / "views.tar")
    with pytest.raises(ValueError, match="give each once"):
        sample(generator_dir, [tars[0], tars[0]], tmp_path / "views")
    with pytest.raises(ValueError, match="folder of the view shards"):
        run(
            "consistency", "score", *named("--real", tars), "--views", tars[0], "--encoder", ENCODER, "--source", "x", "--output", tmp_path
        )  # fmt: skip
