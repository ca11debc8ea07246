"""Latents kept on disk: resumable, bound to what they depend on, and read without being loaded."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdgmae.generators.build import build_pipeline
from cdgmae.generators.train.generator_batches import draw_batch, embeddings_to_whiten_with, make_first_stage, split
from cdgmae.generators.train.latent_cache import LatentCache, fill_cache, part_path
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.settings.encoder import parse_encoder
from cdgmae.storage.bags import Bags
from cdgmae.storage.files.atomic import temporary_name
from tests.generators.conftest import ENCODER, training_settings

CPU = torch.device("cpu")


def fill(folder: Path, tar: Path, part: int = 2, identity: str = "a", **changes: object) -> LatentCache:
    settings, images = training_settings(**changes), Bags([tar]).usable()
    pipeline = build_pipeline(settings, 16, make_first_stage(images, settings), 0)
    return fill_cache(
        folder, identity, images, load_encoder(parse_encoder(ENCODER), device=CPU), pipeline, settings, CPU, part=part
    )


def content(cache: LatentCache) -> torch.Tensor:
    numbers = list(range(cache.count))
    return torch.cat([cache.latents([flip] * cache.count, numbers).flatten(1) for flip in range(cache.flips)])


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}


def test_parts_hold_the_same_whatever_their_size_and_are_not_loaded(shard_tar: Path, tmp_path: Path) -> None:
    small, large = fill(tmp_path / "small", shard_tar), fill(tmp_path / "large", shard_tar, part=100)
    assert len(times(tmp_path / "small")) == 6
    torch.testing.assert_close(content(small), content(large), atol=1e-5, rtol=0)
    assert all(isinstance(array, np.memmap) for array in small._arrays["latents"])
    half = fill(tmp_path / "half", shard_tar, cache_precision="fp16")
    assert half._arrays["latents"][0].dtype == np.float16
    assert half.latents([1], [3]).dtype == torch.float32
    torch.testing.assert_close(content(half), content(small), atol=2e-3, rtol=1e-3)


def test_missing_parts_are_made_and_finished_ones_are_kept(
    shard_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = content(fill(tmp_path, shard_tar)).clone()
    before = times(tmp_path)
    part_path(tmp_path, "latents", 2).unlink()
    temporary_name(part_path(tmp_path, "latents", 4)).write_bytes(b"half")
    monkeypatch.setenv("CDGMAE_TIME_LIMIT", "0")
    with pytest.raises(Interrupted, match="2 of 3 parts are kept"):
        fill(tmp_path, shard_tar)
    monkeypatch.delenv("CDGMAE_TIME_LIMIT")
    assert torch.equal(content(fill(tmp_path, shard_tar)), reference)
    after = times(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"000000002.latents.npy", "000000002.embeddings.npy"}


@pytest.mark.parametrize("kind", ["latents", "embeddings"])
def test_a_damaged_part_is_said_and_made_again_and_no_other(
    shard_tar: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    reference = content(fill(tmp_path, shard_tar)).clone()
    before, part = times(tmp_path), part_path(tmp_path, kind, 2)
    damaged = bytearray(part.read_bytes())
    damaged[-7] ^= 4
    part.write_bytes(damaged)
    assert torch.equal(content(fill(tmp_path, shard_tar)), reference)
    assert f"{part} is damaged" in caplog.text
    assert {name.split(".")[0] for name, time in times(tmp_path).items() if time != before[name]} == {"000000002"}


def test_images_are_decoded_once_and_ahead_by_threads(shard_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, bool]] = []
    image = Bags.image

    def noted(bags: Bags, index: int) -> Image.Image:
        decoded.append((index, threading.current_thread() is threading.main_thread()))
        return image(bags, index)

    settings, images = training_settings(), Bags([shard_tar]).usable()
    pipeline = build_pipeline(settings, 16, make_first_stage(images, settings), 0)
    monkeypatch.setattr(Bags, "image", noted)
    fill_cache(tmp_path, "a", images, load_encoder(parse_encoder(ENCODER), device=CPU), pipeline, settings, CPU, part=4)
    assert sorted(decoded) == [(index, False) for index in range(6)]


def test_parts_of_other_settings_are_discarded(shard_tar: Path, tmp_path: Path) -> None:
    fill(tmp_path, shard_tar)
    before = times(tmp_path)
    assert fill(tmp_path, shard_tar, identity="b", horizontal_flip=False).flips == 1
    assert all(time != before[name] for name, time in times(tmp_path).items())


def test_two_processes_share_the_parts_out(shard_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = content(fill(tmp_path / "one", shard_tar)).clone()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("cdgmae.generators.train.latent_cache.StopRequest", ImpatientAfterItsShare)
    with pytest.raises(Interrupted, match="2 of 2 parts"):
        fill(tmp_path / "two", shard_tar)
    assert len(list((tmp_path / "two").glob("*.latents.npy"))) == 2
    monkeypatch.setenv("RANK", "1")
    assert torch.equal(content(fill(tmp_path / "two", shard_tar)), reference)


class ImpatientAfterItsShare(StopRequest):
    """Stops the process that would otherwise wait for the other one."""

    asked = 0

    def reason(self) -> str | None:
        self.asked += 1
        return "time limit" if self.asked > 2 else None


def test_held_out_images_are_a_random_share_that_is_never_trained_on(shard_tar: Path, tmp_path: Path) -> None:
    cache = fill(tmp_path, shard_tar)
    examples = split(cache, 0.34, seed=0)
    assert len(examples.held_out) == 2
    assert sorted([*examples.held_out, *examples.trained]) == list(range(6))
    assert {tuple(split(cache, 0.34, seed).held_out) for seed in range(8)} != {tuple(examples.held_out)}
    assert len(split(cache, 0.01, 0).held_out) == 1
    assert list(split(cache, 0.0, 0).trained) == list(range(6))
    with pytest.raises(ValueError, match=r"held_out_fraction = 0\.95.*leaves none"):
        split(cache, 0.95, 0)
    assert embeddings_to_whiten_with(cache).shape == (12, 16)


def test_targets_are_crops_of_what_the_condition_sees(shard_tar: Path, tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", shard_tar)
    assert whole.targets == 1
    options = {"target_crops": 3, "target_crop_side": 0.5, "autoencoder": {"kind": "none"}}  # latents are pixels
    cropped = fill(tmp_path / "crops", shard_tar, **options)
    assert (cropped.targets, cropped.flips, cropped.latent_shape) == (3, 2, (3, 16, 16))
    assert torch.equal(cropped.embeddings([0, 1], [2, 2]), whole.embeddings([0, 1], [2, 2]))
    image = Bags([shard_tar]).usable().image(2)
    square = np.asarray(image.crop((4, 0, 28, 24)), float) / 127.5 - 1  # an image of 32 x 24 pixels
    for number in range(3):
        plain, mirrored = (cropped.latents([flip], [2], [number])[0] for flip in (0, 1))
        torch.testing.assert_close(plain.flip(-1), mirrored)
        assert best_match(square, plain.numpy()) < 0.06 < best_match(square[:, ::-1], plain.numpy())
    again = fill(tmp_path / "again", shard_tar, part=4, **options)
    assert torch.equal(again.latents([1] * 6, range(6), [2] * 6), cropped.latents([1] * 6, range(6), [2] * 6))
    examples, settings = split(cropped, 0.0, 0), training_settings(batch_size=6, **options)
    drawn = torch.cat([draw_batch(examples, settings, 0, step)["latents"] for step in range(12)])
    assert len({row.numpy().tobytes() for row in drawn}) > 24  # of 6 images, mirrored or not, in 3 crops: 12 without crops


def best_match(square_HW3: np.ndarray, target_3SS: np.ndarray) -> float:
    """Smallest mean difference between a target and any crop of at least half the square's side, both at 16 pixels."""
    source = Image.fromarray(((square_HW3 + 1) * 127.5).round().astype(np.uint8))
    boxes = (
        (x, y, x + side, y + side) for side in range(12, 25) for x in range(0, 25 - side) for y in range(0, 25 - side)
    )  # fmt: skip
    crops = (np.asarray(source.resize((16, 16), Image.Resampling.BICUBIC, box=box), float) / 127.5 - 1 for box in boxes)
    return min(float(np.abs(crop.transpose(2, 0, 1) - target_3SS).mean()) for crop in crops)
