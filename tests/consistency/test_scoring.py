"""Scoring of a shard on real image shards with raw-pixel and ViT encoders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cdgmae.consistency.score_tables import METRICS, SCORE_SCHEMA
from cdgmae.consistency.scoring import score_shard as scoring
from cdgmae.consistency.scoring.pair_images import cut_crops, prepare_image
from cdgmae.models.encoders.by_name import PixelEncoder, VitEncoder, load_encoder
from cdgmae.models.normalisation import normalise, pixels_to_tensor
from cdgmae.pretrain.augment import finish_views
from cdgmae.pretrain.pretext import plan_sample
from cdgmae.runtime.interrupts import OutOfDeviceMemory
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.consistency import CropDrawSettings, ScoringSettings
from cdgmae.settings.crops import CropPairSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.bags import Bag
from cdgmae.storage.image_shards import ImageShard
from cdgmae.storage.media.crop_boxes import plan_crop_pair
from cdgmae.storage.media.images import NAMED_FORMATS, encode_jpeg
from cdgmae.storage.tables import table_metadata
from tests.consistency.drawn_bags import PATCH, SIZE, TINY_VIT, Images, bags, draw_image, png, shifted, write_shard

CPU = torch.device("cpu")
ON_CPU = RuntimeSettings(device="cpu")
SETTINGS = ScoringSettings(image_size=SIZE, batch_size=4)


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Write both shards, score them, give the result and the table's path."""

    def run(
        real: Images,
        views: Images | None,
        *,
        settings: ScoringSettings = SETTINGS,
        encoder: str = f"pixels:{PATCH}",
        runtime: RuntimeSettings = ON_CPU,
        **options: Any,
    ) -> tuple[dict[str, Any], Path]:
        real_tar = write_shard(tmp_path / "real" / "00000.tar", real)
        view_tar = write_shard(tmp_path / "views" / "00000.tar", views) if views is not None else None
        output = tmp_path / "scores" / "00000.parquet"
        printed = scoring.score_shard(
            settings, real_tar, view_tar, parse_encoder(encoder), output, source="s_ldm", runtime=runtime, **options
        )
        return printed, output

    return run


def test_planted_pairs_are_told_apart(score: Callable[..., Any]) -> None:
    image = draw_image(1)
    views: Images = {("a", 1): png(shifted(image, 0)), ("a", 2): png(shifted(image, 1)), ("a", 3): png(draw_image(2, SIZE))}
    _, path = score({("a", 0): png(shifted(image, 0))}, views)
    same, moved, stranger = pq.read_table(path).to_pylist()
    assert [same[name] for name in ("gs", "ls", "nps", "nps_reverse")] == pytest.approx([1, 1, 1, 1], abs=1e-5)
    assert moved["nps"] > 0.9 > moved["ls"]
    assert stranger["nps"] < moved["nps"]
    assert stranger["ls"] < moved["ls"]
    assert stranger["gs"] < moved["gs"]


def test_rows_follow_the_contract(score: Callable[..., Any]) -> None:
    result, path = score(*bags(5, 3))
    table = pq.read_table(path)
    rows = table.to_pylist()
    assert table.schema.remove_metadata() == SCORE_SCHEMA
    assert [(row["key"], row["view_b"]) for row in rows] == [(f"k{key}", view) for key in range(5) for view in (1, 2, 3)]
    assert {(row["view_a"], row["source"], row["encoder"], row["status"], row["reason"]) for row in rows} == {
        (0, "s_ldm", f"pixels{PATCH}", "ok", None)
    }
    assert {row["key"]: row["class_name"] for row in rows} == {f"k{key}": "beetle" if key == 1 else None for key in range(5)}
    assert (result["pairs"], result["bad"], result["without_views"]) == (15, 0, 0)
    assert result["nps"] == pytest.approx(np.mean([row["nps"] for row in rows]))
    assert table_metadata(path)["real_shard"] == "real/00000"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_batches_that_cut_through_bags_do_not_change_the_scores(score: Callable[..., Any], batch_size: int) -> None:
    real, views = bags(4, 2)
    _, path = score(real, views, settings=SETTINGS, encoder=TINY_VIT)
    expected = pq.read_table(path).to_pandas()
    _, path = score(real, views, settings=SETTINGS.model_copy(update={"batch_size": batch_size}), encoder=TINY_VIT)
    actual = pq.read_table(path).to_pandas()
    np.testing.assert_allclose(
        actual[["gs", "ls", "nps", "nps_reverse"]], expected[["gs", "ls", "nps", "nps_reverse"]], atol=1e-5
    )
    assert list(actual["key"]) == list(expected["key"])


def test_every_image_is_embedded_once(score: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    tokens = PixelEncoder.tokens
    monkeypatch.setattr(
        PixelEncoder, "tokens", lambda self, images, **rest: batches.append(len(images)) or tokens(self, images, **rest)
    )
    score(*bags(5, 3), settings=SETTINGS.model_copy(update={"pairs": "all"}))
    assert batches == [4] * 5


def test_scores_are_those_of_the_encoders_tokens(score: Callable[..., Any]) -> None:
    real, views = bags(1, 1)
    _, path = score(real, views, encoder=TINY_VIT)
    images = [prepare_image(data, SIZE) for data in (real["k0", 0], views["k0", 1]) if isinstance(data, bytes)]
    tokens_BTD = load_encoder(parse_encoder(TINY_VIT), device=CPU).tokens(normalise(pixels_to_tensor(images)))
    expected = torch.cosine_similarity(tokens_BTD[0], tokens_BTD[1], dim=-1)
    row = pq.read_table(path).to_pylist()[0]
    assert row["gs"] == pytest.approx(expected[0].item(), abs=1e-5)
    assert row["ls"] == pytest.approx(expected[1:].mean().item(), abs=1e-5)


def test_images_are_scaled_by_the_shorter_side_and_cut_in_the_middle() -> None:
    stripes = Image.new("RGB", (96, 48), "red")
    stripes.paste("blue", (24, 0, 72, 48))
    prepared = prepare_image(png(stripes), 24)
    assert prepared.size == (24, 24)
    assert np.asarray(prepared)[12, 3].argmax() == np.asarray(prepared)[12, 20].argmax() == 2


def test_unreadable_images_become_rows_with_a_reason(score: Callable[..., Any], tmp_path: Path) -> None:
    real, views = bags(3, 3)
    whole = encode_jpeg(draw_image(5), 90)
    views["k0", 1] = whole[: len(whole) * 3 // 4]
    views["k1", 2] = "generation failed: not finite"
    real["k2", 0] = b"no image at all"
    result, path = score(real, views, settings=SETTINGS.model_copy(update={"max_bad_fraction": 0.9}))
    rows = {(row["key"], row["view_b"]): row for row in pq.read_table(path).to_pylist()}
    assert len(rows) == 9
    assert result["bad"] == 5
    assert rows["k0", 1]["reason"].startswith("view: corrupt or truncated image")
    assert rows["k1", 2]["reason"] == "view: generation failed: not finite"
    assert {rows["k2", view]["reason"] for view in (1, 2, 3)} == {f"real image: not an image of a known format ({NAMED_FORMATS})"}
    assert all(rows["k0", 1][name] is None for name in ("gs", "ls", "nps", "nps_reverse"))
    assert rows["k0", 2]["status"] == "ok"
    assert rows["k0", 2]["nps"] is not None


def test_bytes_that_rotted_on_disk_are_found(score: Callable[..., Any], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_bad_fraction": 0.9})
    _, path = score(*bags(2, 1), settings=settings)
    tar = tmp_path / "views" / "00000.tar"
    row = next(ImageShard(tar).rows())
    content = bytearray(tar.read_bytes())
    content[(row.offset or 0) + 40] ^= 1
    tar.write_bytes(content)
    os.utime(tar, (1, 1))  # damage that nobody wrote
    arguments = (tmp_path / "real" / "00000.tar", tar, parse_encoder(f"pixels:{PATCH}"), path)
    scoring.score_shard(settings, *arguments, source="s_ldm", runtime=ON_CPU)
    reasons = {entry["key"]: entry["reason"] for entry in pq.read_table(path).to_pylist()}
    assert reasons[row.key] == "view: bytes differ from the SHA-256 in the index"


def test_too_many_bad_pairs_fail_and_leave_no_table(score: Callable[..., Any], tmp_path: Path) -> None:
    real, views = bags(3, 2)
    views["k0", 1] = b""
    with pytest.raises(
        ValueError, match=r"1 of 6 pairs cannot be scored.*max_bad_fraction = 0.001.*First: k0, view 1.*empty file \(1x\)"
    ):
        score(real, views)
    assert not list((tmp_path / "scores").glob("*.parquet"))


def test_a_second_run_gives_the_same_bytes(score: Callable[..., Any]) -> None:
    first = score(*bags(4, 2), encoder=TINY_VIT)[1].read_bytes()
    assert score(*bags(4, 2), encoder=TINY_VIT)[1].read_bytes() == first


def test_real_images_without_views_are_counted(score: Callable[..., Any]) -> None:
    real, views = bags(3, 1)
    del views["k1", 1]
    result, path = score(real, views)
    assert (result["pairs"], result["without_views"]) == (2, 1)
    assert table_metadata(path)["without_views"] == 1


def test_views_of_other_shards_are_refused(score: Callable[..., Any]) -> None:
    real, views = bags(3, 1)
    del real["k2", 0]
    with pytest.raises(ValueError, match=r"views without a real image: .*'k2'; .*other shards; delete it"):
        score(real, views)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(score: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"image_size = 50 is not a multiple of the patch size 8 .*use 48"):
        score(*bags(1, 1), settings=ScoringSettings(image_size=50))


def test_an_empty_shard_gives_an_empty_table(score: Callable[..., Any]) -> None:
    result, path = score({}, {})
    assert result["pairs"] == 0
    assert pq.read_table(path).num_rows == 0


def test_all_pairs_of_a_bag_are_scored_in_order(score: Callable[..., Any]) -> None:
    real, views = bags(3, 3)
    _, path = score(real, views, settings=SETTINGS.model_copy(update={"pairs": "all"}))
    rows = pq.read_table(path).to_pylist()
    wanted = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert [(row["key"], row["view_a"], row["view_b"]) for row in rows] == [
        (f"k{key}", *pair) for key in range(3) for pair in wanted
    ]
    _, path = score({("a", 0): views["k0", 1]}, {("a", 1): views["k0", 2]})
    alone = pq.read_table(path).to_pylist()[0]
    assert [rows[3][name] for name in METRICS] == pytest.approx([alone[name] for name in METRICS], abs=1e-6)


def test_crop_pairs_are_those_of_the_pretext_task_and_a_function_of_seed_and_key(
    score: Callable[..., Any], tmp_path: Path
) -> None:
    real = {(f"k{index}", 0): png(draw_image(index)) for index in range(4)}
    draws = CropDrawSettings(num_pairs=2, global_crop_scale=(0.3, 1.0), seed=5)
    settings = SETTINGS.model_copy(update={"crops": draws})
    result, path = score(real, None, settings=settings, kind="crops")
    rows = pq.read_table(path).to_pylist()
    assert [(row["key"], row["view_a"], row["view_b"]) for row in rows] == [
        (f"k{key}", *pair) for key in range(4) for pair in ((1, 2), (3, 4))
    ]
    assert (result["pairs"], table_metadata(path)["kind"], table_metadata(path)["crops"]["seed"]) == (8, "crops", 5)
    generator = numpy_generator(5, "consistency/crops", "k2", 2)
    run = PretrainRunSettings(
        image_size=SIZE, patch_size=PATCH, embed_dim=24, num_heads=2, pretext="crops", global_crop_scale=(0.3, 1.0)
    )
    plan = plan_sample(run, generator, Bag("k2", range(1), [0], [draw_image(2).size], None))
    target, anchor = cut_crops(draw_image(2), plan, SIZE)
    tokens_BTD = load_encoder(parse_encoder(f"pixels:{PATCH}"), device=CPU).tokens(normalise(pixels_to_tensor([target, anchor])))
    assert rows[5]["ls"] == pytest.approx(torch.cosine_similarity(*tokens_BTD[:, 1:], dim=-1).mean().item(), abs=1e-5)
    fewer = {key: value for key, value in real.items() if key[0] == "k2"}
    _, path = score(fewer, None, settings=settings)
    assert [row["nps"] for row in pq.read_table(path).to_pylist()] == [row["nps"] for row in rows if row["key"] == "k2"]


@pytest.mark.parametrize("strategy", ["global_to_local", "local_to_global", "random_views", "same_views"])
def test_crops_are_cut_as_pre_training_cuts_them(strategy: Literal["global_to_local"]) -> None:
    image = draw_image(3, 90).crop((0, 0, 90, 70))
    pixels_HWC = torch.from_numpy(np.asarray(image).copy())
    for seed in range(6):
        plan = plan_crop_pair(CropPairSettings(crop_strategy=strategy), np.random.default_rng(seed), image.size, SIZE)
        regions = [pixels_HWC[box.top : box.bottom, box.left : box.right] for box in plan.regions]
        batch = {
            "pixels": torch.cat([region.flatten() for region in regions]), "region_sizes": torch.tensor([[region.shape[:2] for region in regions]]),
            "flips": torch.tensor([plan.flips]), **({"nested": torch.tensor([plan.nested])} if plan.nested else {}),
        }  # fmt: skip
        ours = normalise(pixels_to_tensor(cut_crops(image, plan, SIZE)))
        target, anchors = finish_views(batch, SIZE)
        assert anchors is not None
        assert (torch.cat([target, anchors[0]]) - ours).abs().max() < 0.05


def test_crops_and_view_files_at_once_are_refused(score: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="leave out one of settings `crops` and --views"):
        score(*bags(1, 1), settings=SETTINGS.model_copy(update={"crops": CropDrawSettings()}))


def test_tokens_before_the_final_norm_are_compared_if_asked_for(score: Callable[..., Any]) -> None:
    real, views = bags(1, 1)
    _, path = score(real, views, encoder=TINY_VIT, settings=SETTINGS.model_copy(update={"features": "last_block"}))
    encoder = load_encoder(parse_encoder(TINY_VIT), device=CPU)
    assert isinstance(encoder, VitEncoder)
    images = normalise(
        pixels_to_tensor([prepare_image(data, SIZE) for data in (real["k0", 0], views["k0", 1]) if isinstance(data, bytes)])
    )
    before_BTD = encoder.tokens(images, final_norm=False)
    torch.testing.assert_close(encoder.vit.norm(before_BTD), encoder.tokens(images))
    row = pq.read_table(path).to_pylist()[0]
    assert row["gs"] == pytest.approx(torch.cosine_similarity(*before_BTD[:, 0], dim=-1).item(), abs=1e-5)
    assert table_metadata(path)["features"] == "last_block"


def test_bf16_scores_stay_near_fp32_and_say_so(score: Callable[..., Any]) -> None:
    exact, rough = (
        pq.read_table(score(*bags(3, 2), encoder=TINY_VIT, runtime=ON_CPU.model_copy(update={"precision": name}))[1])
        for name in ("fp32", "bf16")
    )
    for metric in METRICS:
        np.testing.assert_allclose(rough[metric].to_numpy(), exact[metric].to_numpy(), atol=0.02)
    assert rough["ls"] != exact["ls"]


def test_too_little_memory_names_the_batch_size(score: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(scoring.Embedder, "__call__", embed)
    with pytest.raises(OutOfDeviceMemory, match=r"Lower consistency\.batch_size \(now 4\)"):
        score(*bags(1, 1))


def test_nearest_patches_of_chosen_bags_tell_where_each_patch_went(score: Callable[..., Any]) -> None:
    image = draw_image(1)
    real: Images = {("a", 0): png(shifted(image, 0)), ("b", 0): png(draw_image(2, SIZE)), ("c", 0): png(draw_image(3, SIZE))}
    views: Images = {("a", 1): png(shifted(image, 1)), ("b", 1): png(draw_image(5, SIZE)), ("c", 1): b""}
    settings = SETTINGS.model_copy(update={"nearest_bags": 1, "max_bad_fraction": 0.5})
    _, path = score(real, views, settings=settings)
    assert [row["nearest_patches"] is None for row in pq.read_table(path).to_pylist()] == [True, False, True]
    _, path = score(real, views, settings=settings.model_copy(update={"nearest_bags": 9}))
    rows = pq.read_table(path).to_pylist()
    side = SIZE // PATCH
    maps = np.array(rows[0]["nearest_patches"]).reshape(side, side)
    assert (maps[:, 1:] == np.arange(side * side).reshape(side, side)[:, :-1]).all()
    assert np.array(rows[0]["nearest_similarities"]).mean() == pytest.approx(rows[0]["nps"], abs=1e-6)
    assert rows[2]["nearest_patches"] is rows[2]["nearest_similarities"] is None
    assert table_metadata(path)["patch_size"] == PATCH


def test_repaired_shards_and_changed_settings_discard_finished_parts(score: Callable[..., Any], tmp_path: Path) -> None:
    real, views = bags(6, 2)
    good = score(real, views)[1].read_bytes()
    work = tmp_path / "work"
    views["k5", 1] = b""
    with pytest.raises(ValueError, match="cannot be scored"):
        score(real, views, work_dir=work)
    assert [path.name for path in work.glob("*.jsonl")] == ["000.jsonl"]
    tolerant, _ = score(real, views, work_dir=work, settings=SETTINGS.model_copy(update={"max_bad_fraction": 0.5}))
    assert (tolerant["found_finished"], tolerant["bad"], work.exists()) == (12, 1, False)
    with pytest.raises(ValueError, match="cannot be scored"):
        score(real, views, work_dir=work)
    repaired, path = score(*bags(6, 2), work_dir=work)
    assert repaired["found_finished"] == 0
    assert path.read_bytes() == good


def test_an_encoder_that_gives_no_finite_tokens_fails_before_a_part_is_kept(
    score: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = PixelEncoder.tokens
    monkeypatch.setattr(PixelEncoder, "tokens", lambda self, images, **rest: tokens(self, images, **rest) * float("nan"))
    with pytest.raises(ValueError, match=r"gs = nan of k0, views 0 and 1.*not finite"):
        score(*bags(2, 1), work_dir=tmp_path / "work")
    assert [path.stat().st_size for path in (tmp_path / "work").iterdir()] == [0, 0]
