"""Sampling a shard: what views depend on, what a kill costs, and what happens to bad samples."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cdgmae.generators.generator_folder import METADATA_FILE, embed, load_generator, write_generator
from cdgmae.models.normalisation import squares
from cdgmae.runtime.interrupts import Interrupted
from cdgmae.runtime.seeds import integer_seed
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.settings.views import SamplingSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.files.output_cache import OutputCache
from cdgmae.storage.image_shards import BAD, OK, ImageRow, ImageShard, index_path
from cdgmae.storage.journal import DATA_SUFFIX, LINE_SUFFIX
from cdgmae.storage.tables import table_metadata
from cdgmae.views.sampling.batch import Item, ViewMaker
from cdgmae.views.sampling.generator_sampler import GeneratorRecipe, GeneratorSampler
from cdgmae.views.sampling.sample_shard import sample_shard
from tests.generators.conftest import KEYS, write_shard

CPU = torch.device("cpu")
ON_CPU = RuntimeSettings(device="cpu")
JOURNAL, DATA = f"000{LINE_SUFFIX}", f"000{DATA_SUFFIX}"


def sampling(**changes: object) -> SamplingSettings:
    values: dict[str, object] = {"num_views": 3, "num_inference_steps": 3, "guidance_scale": 2.0, "batch_size": 4}
    return SamplingSettings.from_plain({**values, **changes})


def sample(
    tar: Path, generator: Path, folder: Path, name: str = "00000.tar", seed: int = 0, processes: int = 1, **changes: object
) -> dict:
    settings = sampling(**changes)
    recipe = GeneratorRecipe(generator, settings)
    return sample_shard(
        settings,
        seed,
        tar,
        recipe,
        folder / name,
        folder / f"work-{name}",
        runtime=RuntimeSettings(device="cpu", workers=processes),
    )


def rows_of(tar: Path) -> list[ImageRow]:
    return list(ImageShard(tar).rows())


def pixels_of(tar: Path) -> dict[tuple[str, int], np.ndarray]:
    shard = ImageShard(tar)
    return {(row.key, row.view_index): np.asarray(Image.open(io.BytesIO(shard.read(row))), dtype=int) for row in shard.rows(OK)}


@pytest.fixture(scope="module")
def straight(shard_tar: Path, generator_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    sample(shard_tar, generator_dir, folder)
    return folder / "00000.tar"


def test_views_follow_the_contract(straight: Path, generator_dir: Path) -> None:
    rows = rows_of(straight)
    assert [(row.key, row.view_index) for row in rows] == [(key, k) for key in KEYS for k in (1, 2, 3)]  # the bad `gnu` has none
    digest = load_generator(generator_dir, device=CPU).metadata.digest
    for row in rows:
        assert (row.generator, row.sampler, row.steps, row.guidance) == (digest, "ddim", 3, 2.0)
        assert (row.seed, row.width, row.height, row.class_name) == (
            integer_seed(0, "views", row.key, row.view_index),
            16,
            16,
            "animal",
        )
    with tarfile.open(straight) as tar:
        assert tar.getnames() == [f"{row.key}.{row.view_index}.jpg" for row in rows]
    metadata = table_metadata(index_path(straight))
    assert {row.precision for row in rows} == {"fp32"}
    assert metadata["inputs"]["generator"] == digest
    assert not (straight.parent / "work-00000.tar").exists()
    views = pixels_of(straight)
    assert len({view.tobytes() for view in views.values()}) == len(views)


def test_views_are_what_the_formula_says(straight: Path, shard_tar: Path, generator_dir: Path) -> None:
    generator, images = load_generator(generator_dir, device=CPU), Bags([shard_tar]).usable()
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(integer_seed(0, "views", "dog", 2)))
    embedding = embed(generator.encoder, squares([images.image(3)], 16))
    decoded = generator.pipeline.images(generator.pipeline.sample_latents(embedding, noise[None], 3, 2.0))
    expected = (decoded[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(pixels_of(straight)["dog", 2] - expected).mean() < 3  # JPEG at quality 95 lies between


def test_views_do_not_depend_on_shards_or_batches_but_on_the_seed(
    straight: Path, shard_tar: Path, generator_dir: Path, tmp_path: Path
) -> None:
    reference = pixels_of(straight)
    halves = [write_shard(tmp_path / f"half{n}" / "00000.tar", keys) for n, keys in enumerate((KEYS[1::2], KEYS[::2]))]
    found: dict[tuple[str, int], np.ndarray] = {}
    for n, half in enumerate(halves):
        sample(half, generator_dir, tmp_path, f"{n}.tar", batch_size=3 + 4 * n)
        found.update(pixels_of(tmp_path / f"{n}.tar"))
    assert found.keys() == reference.keys()
    assert max(np.abs(found[item] - reference[item]).max() for item in reference) <= 8
    sample(shard_tar, generator_dir, tmp_path, "more.tar", num_views=4)
    more = pixels_of(tmp_path / "more.tar")
    assert max(np.abs(more[item] - reference[item]).max() for item in reference) <= 8
    sample(shard_tar, generator_dir, tmp_path, "other.tar", seed=1)
    other = pixels_of(tmp_path / "other.tar")
    assert all(np.abs(other[item] - reference[item]).max() > 8 for item in reference)


def finished_work(tar: Path, generator: Path, folder: Path) -> Path:
    """Work of a run that made all its views and could not write the result: the output's folder is a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "blocked").write_text("")
    work = folder / "work-00000.tar"
    recipe = GeneratorRecipe(generator, sampling())
    with pytest.raises(ValueError, match="blocked"):
        sample_shard(sampling(), 0, tar, recipe, folder / "blocked" / "00000.tar", work, runtime=ON_CPU)
    return work


def test_any_cut_of_the_work_ends_with_the_same_bytes(
    straight: Path, shard_tar: Path, generator_dir: Path, tmp_path: Path
) -> None:
    """Whatever a kill leaves: journal and data may end anywhere, for they are written one after the other."""
    whole = finished_work(shard_tar, generator_dir, tmp_path / "whole")
    journal, data = (whole / JOURNAL).read_bytes(), (whole / DATA).read_bytes()
    ends = [i + 1 for i, byte in enumerate(journal) if byte == ord("\n")][1::2]  # a record lies between two line breaks
    draw = random.Random(0)
    cuts = [
        (0, 0),
        (ends[0], 0),
        (ends[2], len(data)),
        (ends[-1], len(data)),
        (ends[1] + 5, len(data)),
        (ends[-1] - 1, len(data)),
    ]
    cuts += [(draw.randrange(len(journal)), len(data)) for _ in range(3)] + [(len(journal), draw.randrange(len(data)))]
    for number, (journal_bytes, data_bytes) in enumerate(cuts):
        folder = tmp_path / str(number)
        work = folder / "work-00000.tar"
        work.mkdir(parents=True)
        (work / JOURNAL).write_bytes(journal[:journal_bytes])
        (work / DATA).write_bytes(data[:data_bytes])
        result = sample(shard_tar, generator_dir, folder)
        kept = sum(end <= journal_bytes for end in ends)
        if data_bytes == len(data):
            assert result["found_finished"] == kept
        assert (folder / "00000.tar").read_bytes() == straight.read_bytes()
        assert index_path(folder / "00000.tar").read_bytes() == index_path(straight).read_bytes()


def test_a_flipped_bit_in_the_parts_is_noticed(straight: Path, shard_tar: Path, generator_dir: Path, tmp_path: Path) -> None:
    work = finished_work(shard_tar, generator_dir, tmp_path)
    data = bytearray((work / DATA).read_bytes())
    data[len(data) // 2] ^= 1
    (work / DATA).write_bytes(data)
    assert 0 < sample(shard_tar, generator_dir, tmp_path)["found_finished"] < 18
    assert (tmp_path / "00000.tar").read_bytes() == straight.read_bytes()


def test_parts_of_other_settings_are_not_mixed_in(shard_tar: Path, generator_dir: Path, tmp_path: Path) -> None:
    finished_work(shard_tar, generator_dir, tmp_path)
    assert sample(shard_tar, generator_dir, tmp_path, guidance_scale=3.0)["found_finished"] == 0


def test_a_stop_request_keeps_what_is_made(
    shard_tar: Path, generator_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDGMAE_TIME_LIMIT", "0")
    with pytest.raises(Interrupted, match="0 of 18"):
        sample(shard_tar, generator_dir, tmp_path)
    assert not (tmp_path / "00000.tar").exists()


def keep_shard(shard_tar: Path, generator_dir: Path, folder: Path, **changes: object) -> dict:
    """Draw results/views/s_ldm/00000.tar and keep it, as the workflow's jobs do: their outputs are removed before they start."""
    output = folder / "00000.tar"
    output.unlink(missing_ok=True)
    index_path(output).unlink(missing_ok=True)
    result = sample(shard_tar, generator_dir, folder, **changes)
    outputs = [output, index_path(output)]
    OutputCache.of_command(["cdgmae", json.dumps(changes)], outputs).store()
    return result


def test_another_number_of_views_draws_only_what_is_new(
    straight: Path,
    shard_tar: Path,
    generator_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, fresh = Path("results/views/s_ldm"), tmp_path / "fresh"
    drawn: list[int] = []

    def count(maker: ViewMaker, items: list[Item], *arguments: object) -> list:
        drawn.append(len(items))
        return draw(maker, items, *arguments)

    draw = ViewMaker.draw
    monkeypatch.setattr(ViewMaker, "draw", count)
    caplog.set_level("INFO", "cdgmae")
    for num_views, new in ((3, 18), (4, 6), (2, 0), (4, 0)):
        drawn.clear()
        caplog.clear()
        result = keep_shard(shard_tar, generator_dir, folder, num_views=num_views)
        assert (sum(drawn), result["views"] - result["found_finished"]) == (new, new)
        said = [int(record.args[0]) for record in caplog.records if "not drawn again" in record.message]  # type: ignore[index, arg-type]
        assert sum(said) == 6 * num_views - new
    sample(shard_tar, generator_dir, fresh, num_views=4)
    for name in ("00000.tar", "00000.parquet"):
        assert (folder / name).read_bytes() == (fresh / name).read_bytes()
    before, after = ImageShard(straight), ImageShard(folder / "00000.tar")
    bytes_of = {(row.key, row.view_index): after.read(row) for row in after.rows(OK)}
    assert all(bytes_of[row.key, row.view_index] == before.read(row) for row in before.rows(OK))


def test_kept_views_of_other_settings_or_damaged_ones_are_drawn_again(
    shard_tar: Path, generator_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("results/views/s_ldm")
    keep_shard(shard_tar, generator_dir, folder)
    assert keep_shard(shard_tar, generator_dir, folder, num_views=4, guidance_scale=3.0)["found_finished"] == 0
    row = next(ImageShard(folder / "00000.tar").rows(OK))
    kept = list(Path("work/finished/views/s_ldm/00000.tar").glob("*/00000.tar"))
    for tar in kept:
        data = bytearray(tar.read_bytes())
        data[(row.offset or 0) + (row.length or 0) // 2] ^= 1
        tar.unlink()  # the shard itself is another name of the same file
        tar.write_bytes(data)
        os.utime(tar, (1, 1))  # damage that nobody wrote
    assert keep_shard(shard_tar, generator_dir, folder, num_views=4)["found_finished"] == 17


def poison(unet: nn.Module, steps: int) -> None:
    """Make the denoiser fail for start noises whose first value is positive; every draw has so many steps."""
    poisoned: list[Tensor] = []
    calls = itertools.count()

    def spoil(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if next(calls) % steps == 0:
            poisoned[:] = [arguments[0][:, 0, 0, 0] > 0]
        return torch.where(poisoned[0][:, None, None, None], torch.nan, output)

    unet.conv_in.register_forward_hook(spoil)


def starts_low(stream: str, view: ImageRow) -> bool:
    """Whether `poison` leaves the view's start noise alone."""
    generator = torch.Generator().manual_seed(integer_seed(0, stream, view.key, view.view_index))
    return bool(torch.randn(4, 8, 8, generator=generator)[0, 0, 0] <= 0)


def test_samples_that_are_not_finite_are_tried_once_more(shard_tar: Path, generator_dir: Path) -> None:
    generator, images = load_generator(generator_dir, device=CPU), Bags([shard_tar]).usable()
    poison(generator.pipeline.unet, 3)
    settings = sampling(batch_size=24, num_views=4)
    maker = ViewMaker(
        GeneratorSampler(generator, settings, torch.float32, CPU),
        GeneratorRecipe(generator_dir, settings).provenance,
        images,
        settings,
        0,
    )
    views = [maker.encode(view) for view in maker.draw([Item(image, k) for image in range(6) for k in (1, 2, 3, 4)])]
    outcomes = set()
    for view, data in views:
        good, rescued = starts_low("views", view), starts_low("views/retry", view)
        outcomes.add((good, rescued))
        assert view.seed == integer_seed(0, "views" if good else "views/retry", view.key, view.view_index)
        expected = None if good or rescued else "latents are not finite, also from a second seed"
        assert view.reason == expected
        assert bool(data) == (view.reason is None)
    assert outcomes == {(True, True), (True, False), (False, True), (False, False)}


def test_constant_images_and_bad_shares(shard_tar: Path, generator_dir: Path, tmp_path: Path) -> None:
    generator = load_generator(generator_dir, device=CPU)
    generator.pipeline.autoencoder.spread_L.data.zero_()
    generator.pipeline.autoencoder.mean_CPP.data.zero_()
    grey = tmp_path / "grey"
    shutil.copytree(generator_dir, grey)
    (grey / METADATA_FILE).unlink()
    write_generator(grey, generator.pipeline, generator.metadata.encoder, generator.encoder.digest,
                    image_size=16, encoder_image_size=16, provenance={})  # fmt: skip
    with pytest.raises(ValueError, match=r"18 of 18 views are bad.*ant\.1: image is constant, also from a second seed"):
        sample(shard_tar, grey, tmp_path)
    assert not (tmp_path / "00000.tar").exists()


def test_an_unreadable_real_image_costs_only_its_own_views(generator_dir: Path, tmp_path: Path, straight: Path) -> None:
    tar = write_shard(tmp_path / "real" / "00000.tar", KEYS, corrupt=["cat"])
    with pytest.raises(ValueError, match=r"3 of 18 views are bad.*max_bad_fraction = 0\.001.*cat\.1: real image"):
        sample(tar, generator_dir, tmp_path)
    result = sample(tar, generator_dir, tmp_path, max_bad_fraction=0.2)
    assert (result["views"], result["bad"], result["found_finished"]) == (15, 3, 18)
    bad = [row for row in rows_of(tmp_path / "00000.tar") if row.status == BAD]
    assert [(row.key, row.view_index) for row in bad] == [("cat", 1), ("cat", 2), ("cat", 3)]
    assert all("not an image of a known format" in (row.reason or "") for row in bad)
    reference, found = pixels_of(straight), pixels_of(tmp_path / "00000.tar")
    assert all(np.abs(found[item] - reference[item]).max() <= 8 for item in found)


def test_a_dpm_solver_run_and_a_noisy_ddim_run_keep_their_word(shard_tar: Path, generator_dir: Path, tmp_path: Path) -> None:
    sample(shard_tar, generator_dir, tmp_path, "solver.tar", scheduler="dpm_solver")
    assert {row.sampler for row in rows_of(tmp_path / "solver.tar")} == {"dpm_solver"}
    for batch_size in (4, 7):
        sample(shard_tar, generator_dir, tmp_path, f"eta{batch_size}.tar", eta=1.0, batch_size=batch_size)
    one, two = (pixels_of(tmp_path / f"eta{size}.tar") for size in (4, 7))
    assert max(np.abs(one[item] - two[item]).max() for item in one) <= 8
