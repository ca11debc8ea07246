"""Batches as a pure function of (seed, step): order, parts, processes, masks, and what is decoded."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cdgmae.pretrain import batches as batches_module
from cdgmae.pretrain.augment import finish_views
from cdgmae.pretrain.batches import BagBatches, open_bags
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
from cdgmae.storage.media.images import encode_jpeg

RUN = PretrainRunSettings(
    image_size=32, patch_size=8, embed_dim=24, num_heads=2, num_anchors=2, anchor_masking_ratio=0.25, target_masking_ratio=0.75,
    epochs=6, warmup_epochs=1, effective_batch_size=8,
)  # fmt: skip


def image(number: int, view: int, size: tuple[int, int]) -> bytes:
    coarse = np.random.default_rng([number, view]).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return encode_jpeg(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), 90)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Bags:
    """24 bags of a 48 x 40 real image and three views of 44 x 44."""
    return Bags(*write_bags(tmp_path_factory.mktemp("bags"), (48, 40))).usable()


def write_bags(folder: Path, size: tuple[int, int], said: tuple[int, int] | None = None) -> tuple[list[Path], list[Path]]:
    reals, views = [folder / "shards.tar"], [folder / "views.tar"]
    for path, indices in ((reals[0], [0]), (views[0], [1, 2, 3])):
        with ImageShardWriter(path) as writer:
            for number in range(24):
                for index in indices:
                    actual = size if index == 0 else (44, 44)
                    width, height = said or actual
                    row = ImageRow(f"n{number:04d}", index, extension="jpg", width=width, height=height)
                    writer.add_image(row, image(number, index, actual))
            writer.commit(settings_digest="test")
    return reals, views


def finished(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Views and masks: what a model sees."""
    masks = {name: batch[name] for name in ("target_noise", "anchor_noise", "dropout_seeds")}
    target, anchors = finish_views(batch, 32)
    assert anchors is not None
    return {"target": target, "anchors": anchors, **masks}


def test_every_epoch_shows_every_bag_once_in_a_new_order(store: Bags) -> None:
    batches = BagBatches(store, RUN, seed=1)
    assert (batches.steps_per_epoch, batches.num_steps, batches.batch_size) == (3, 18, 8)
    epochs = [np.concatenate([batches.keys(step)[1] for step in range(3 * epoch, 3 * epoch + 3)]) for epoch in range(2)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert not np.array_equal(*epochs)
    again = BagBatches(store, RUN, seed=1)
    assert np.array_equal(again.keys(4)[1], batches.keys(4)[1])


def test_shapes_and_types(store: Bags) -> None:
    batch = BagBatches(store, RUN, seed=1).batch(0, range(8))
    assert batch["region_sizes"].shape == (8, 3, 2)
    assert batch["pixels"].shape == (3 * batch["region_sizes"].long().prod(dim=2).sum(),)
    assert batch["target_noise"].shape == (8, 16)
    assert batch["anchor_noise"].shape == (8, 2, 16)
    assert batch["anchor_noise"].dtype == batch["target_noise"].dtype == torch.float32
    assert batch["dropout_seeds"].dtype == torch.int64
    assert len(set(batch["dropout_seeds"].tolist())) == 8
    assert finished(batch)["anchors"].shape == (8, 2, 3, 32, 32)
    unmasked = RUN.model_copy(update={"anchor_masking_ratio": 0.0})
    other = BagBatches(store, unmasked, seed=1).batch(0, range(8))
    assert "anchor_noise" not in other
    assert torch.equal(other["target_noise"], batch["target_noise"])
    assert torch.equal(other["dropout_seeds"], batch["dropout_seeds"])


def test_parts_of_a_batch_are_the_same_samples_whatever_the_split_or_process(store: Bags) -> None:
    batches = BagBatches(store, RUN, seed=1)
    whole = finished(batches.batch(4, range(8)))
    for parts in ([range(0, 3), range(3, 8)], [range(0, 8, 2)]):
        rows = [row for part in parts for row in part]
        found = [finished(batches.batch(4, part)) for part in parts]
        for name, tensor in whole.items():
            assert torch.equal(torch.cat([part[name] for part in found]), tensor[rows])
        raw = [batches.batch(4, part) for part in parts]
        assert rows != list(range(8)) or all(
            torch.equal(torch.cat([part[name] for part in raw]), tensor) for name, tensor in batches.batch(4, range(8)).items()
        )
    # One thread, as in a loader's worker: the parent's OpenMP threads are not there after a fork, and waiting for them has no end.
    with ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        forked = pool.submit(batches.batch, 4, range(8)).result()
    for other in (
        forked,
        pickle.loads(pickle.dumps(batches)).batch(4, range(8)),
        BagBatches(store, RUN, seed=1).batch(4, range(8)),
    ):
        assert all(torch.equal(tensor, whole[name]) for name, tensor in finished(other).items())
    different = finished(BagBatches(store, RUN, seed=2).batch(4, range(8)))
    assert not any(torch.equal(tensor, whole[name]) for name, tensor in different.items())


def test_masks_of_a_bag_change_with_the_epoch(store: Bags) -> None:
    first = batches_module.draw_masks(RUN, 1, 0, ["a", "b"])
    assert torch.equal(batches_module.draw_masks(RUN, 1, 0, ["b"])["anchor_noise"], first["anchor_noise"][1:])
    second = batches_module.draw_masks(RUN, 1, 1, ["a", "b"])
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_only_the_drawn_views_are_decoded_and_small_data_sets_once(store: Bags, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = batches_module.decode_pixels
    monkeypatch.setattr(batches_module, "decode_pixels", lambda data: decoded.append(len(data)) or original(data))
    uncached = BagBatches(store, RUN, seed=1, cache_bytes=0)
    uncached.batch(0, range(8))
    assert len(decoded) == 8 * 3
    uncached.batch(0, range(8))
    assert len(decoded) == 2 * 8 * 3
    cached = BagBatches(store, RUN, seed=1)
    for step in (0, 0, 0):
        cached.batch(step, range(8))
    assert len(decoded) == 3 * 8 * 3
    decoded.clear()
    crops = RUN.model_copy(update={"pretext": "crops", "num_anchors": 1, "crop_strategy": "random_views"})
    BagBatches(store, crops, seed=1, cache_bytes=0).batch(0, range(8))
    assert len(decoded) == 8


def test_regions_far_larger_than_the_output_are_scaled_in_the_loader(store: Bags) -> None:
    run = RUN.model_copy(update={"image_size": 16, "patch_size": 4, "crop_scale": (0.9, 1.0)})
    small = BagBatches(store, run, seed=1).batch(0, range(8))
    assert small["pixels"].shape == (8 * 3 * 3 * 16 * 16,)
    assert set(small["region_sizes"].flatten().tolist()) == {16}


def test_shared_crops_show_the_same_part_of_views_of_different_sizes(tmp_path: Path) -> None:
    """A view that is the real image at another size looks the same after augmentation."""
    reals, views = [tmp_path / "r.tar"], [tmp_path / "v.tar"]
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 255, (3, 3, 3), dtype=np.uint8)).resize(
        (96, 60), Image.Resampling.BICUBIC
    )
    for path, index, size in ((reals[0], 0, (96, 60)), (views[0], 1, (64, 40))):
        with ImageShardWriter(path) as writer:
            for number in range(8):
                row = ImageRow(f"k{number}", index, extension="jpg", width=size[0], height=size[1])
                writer.add_image(row, encode_jpeg(smooth.resize(size, Image.Resampling.BICUBIC), 98))
            writer.commit(settings_digest="test")
    batches = BagBatches(Bags(reals, views).usable(), RUN.model_copy(update={"num_anchors": 1}), seed=3)
    target, anchors = finish_views(batches.batch(0, range(8)), 32)
    assert anchors is not None
    assert (target - anchors[:, 0]).abs().mean() < 0.05


def test_images_that_are_not_as_their_index_says_are_named(tmp_path: Path) -> None:
    reals, views = write_bags(tmp_path, (48, 40), said=(40, 48))
    batches = BagBatches(open_bags(RUN, reals, views), RUN, seed=1)
    with pytest.raises(ValueError, match=r"\.tar, view \d has \d+ x \d+ pixels, its index says 40 x 48"):
        batches.batch(0, range(8))


def test_a_batch_of_crops_and_views_shows_each_sample_as_a_run_of_its_kind_alone(store: Bags) -> None:
    mixed = RUN.model_copy(update={"num_anchors": 1, "anchor_masking_ratio": 0.0, "crop_share": 0.5, "target_view": "real"})
    batches = BagBatches(store, mixed, seed=1)
    target, anchors = finish_views(batches.batch(0, range(8)), 32)
    assert anchors is not None
    for sample in range(8):
        alone, anchor = finish_views(batches.batch(0, range(sample, sample + 1)), 32)
        assert torch.equal(alone[0], target[sample])
        assert anchor is not None
        assert torch.equal(anchor[0], anchors[sample])
