"""Scoring of a shard on real picture shards with raw-pixel and ViT encoders."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cdgmae.consistency import scoring
from cdgmae.consistency.pictures import prepare_picture
from cdgmae.consistency.tables import SCORE_SCHEMA
from cdgmae.models.encoders import PixelEncoder, load_encoder
from cdgmae.models.normalisation import normalise, pixels_to_tensor
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import VitSettings
from cdgmae.storage.images import encode_jpeg
from cdgmae.storage.picture_shards import BAD, PictureRow, PictureShard, PictureShardWriter
from cdgmae.storage.tables import table_facts

CPU = torch.device("cpu")
SIZE, PATCH = 48, 8
SETTINGS = ScoringSettings(image_size=SIZE, batch_size=4)
TINY_VIT = "random:" + VitSettings(image_size=SIZE, patch_size=PATCH, embed_dim=24, depth=2, num_heads=2).canonical_json()
Pictures = dict[tuple[str, int], bytes | str]


def picture(seed: int, size: int = SIZE + 2 * PATCH) -> Image.Image:
    """A smooth random picture: neighbouring patches resemble each other, other seeds do not."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def shifted(image: Image.Image, patches: int) -> Image.Image:
    """The central square moved by whole patches."""
    left = PATCH + patches * PATCH
    return image.crop((left, PATCH, left + SIZE, PATCH + SIZE))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_shard(path: Path, pictures: Pictures) -> Path:
    """A picture shard; a string instead of bytes is a bad row with that reason."""
    with PictureShardWriter(path) as writer:
        for (key, view_index), data in pictures.items():
            if isinstance(data, str):
                writer.add_failure(PictureRow(key, view_index, status=BAD, reason=data))
            else:
                writer.add_picture(PictureRow(key, view_index, extension="png", width=SIZE, height=SIZE), data)
        writer.commit(settings_digest="test")
    return path


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Write both shards, score them, give the result and the table's path."""

    def run(
        real: Pictures, views: Pictures, *, settings: ScoringSettings = SETTINGS, encoder: str = f"pixels:{PATCH}"
    ) -> tuple[dict[str, Any], Path]:
        tars = [write_shard(tmp_path / name / "00000.tar", pictures) for name, pictures in (("real", real), ("views", views))]
        output = tmp_path / "scores" / "00000.parquet"
        return scoring.score_shard(settings, *tars, encoder, output, source="s_ldm", device=CPU), output

    return run


def bags(num_keys: int, num_views: int) -> tuple[Pictures, Pictures]:
    """Keys out of order, views of random strangers."""
    keys = [f"k{(7 * index) % num_keys}" for index in range(num_keys)]
    real: Pictures = {(key, 0): png(picture(index)) for index, key in enumerate(keys)}
    views: Pictures = {
        (key, view): png(picture(100 + 10 * index + view)) for index, key in enumerate(keys) for view in range(num_views, 0, -1)
    }
    return real, views


def test_planted_pairs_are_told_apart(score: Callable[..., Any]) -> None:
    image = picture(1)
    views: Pictures = {("a", 1): png(shifted(image, 0)), ("a", 2): png(shifted(image, 1)), ("a", 3): png(picture(2, SIZE))}
    _, path = score({("a", 0): png(shifted(image, 0))}, views)
    same, moved, stranger = pq.read_table(path).to_pylist()
    assert [same[name] for name in ("gs", "ls", "nps", "nps_reverse")] == pytest.approx([1, 1, 1, 1], abs=1e-5)
    assert moved["nps"] > 0.9 > moved["ls"]
    assert stranger["nps"] < moved["nps"]
    assert stranger["ls"] < moved["ls"]
    assert stranger["gs"] < moved["gs"]


def test_rows_follow_the_contract(score: Callable[..., Any]) -> None:
    facts, path = score(*bags(5, 3))
    table = pq.read_table(path)
    rows = table.to_pylist()
    assert table.schema.remove_metadata() == SCORE_SCHEMA
    assert [(row["key"], row["view_b"]) for row in rows] == [(f"k{key}", view) for key in range(5) for view in (1, 2, 3)]
    assert {(row["view_a"], row["source"], row["encoder"], row["status"], row["reason"]) for row in rows} == {
        (0, "s_ldm", f"pixels{PATCH}", "ok", None)
    }
    assert (facts["pairs"], facts["bad"], facts["without_views"]) == (15, 0, 0)
    assert facts["nps"] == pytest.approx(np.mean([row["nps"] for row in rows]))
    assert table_facts(path)["real_shard"] == "real/00000"


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


def test_every_picture_is_embedded_once(score: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
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
    images = [prepare_picture(data, SIZE) for data in (real["k0", 0], views["k0", 1]) if isinstance(data, bytes)]
    tokens_BTD = load_encoder(TINY_VIT, device=CPU).tokens(normalise(pixels_to_tensor(images)))
    expected = torch.cosine_similarity(tokens_BTD[0], tokens_BTD[1], dim=-1)
    row = pq.read_table(path).to_pylist()[0]
    assert row["gs"] == pytest.approx(expected[0].item(), abs=1e-5)
    assert row["ls"] == pytest.approx(expected[1:].mean().item(), abs=1e-5)


def test_pictures_are_scaled_by_the_shorter_side_and_cut_in_the_middle() -> None:
    stripes = Image.new("RGB", (96, 48), "red")
    stripes.paste("blue", (24, 0, 72, 48))
    prepared = prepare_picture(png(stripes), 24)
    assert prepared.size == (24, 24)
    assert np.asarray(prepared)[12, 3].argmax() == np.asarray(prepared)[12, 20].argmax() == 2


def test_unreadable_pictures_become_rows_with_a_reason(score: Callable[..., Any], tmp_path: Path) -> None:
    real, views = bags(3, 3)
    whole = encode_jpeg(picture(5), 90)
    views["k0", 1] = whole[: len(whole) * 3 // 4]
    views["k1", 2] = "generation failed: not finite"
    real["k2", 0] = b"no picture at all"
    facts, path = score(real, views, settings=SETTINGS.model_copy(update={"max_bad_fraction": 0.9}))
    rows = {(row["key"], row["view_b"]): row for row in pq.read_table(path).to_pylist()}
    assert len(rows) == 9
    assert facts["bad"] == 5
    assert rows["k0", 1]["reason"].startswith("view: corrupt or truncated picture")
    assert rows["k1", 2]["reason"] == "view: generation failed: not finite"
    assert {rows["k2", view]["reason"] for view in (1, 2, 3)} == {"real image: not a JPEG, PNG or WebP picture"}
    assert all(rows["k0", 1][name] is None for name in ("gs", "ls", "nps", "nps_reverse"))
    assert rows["k0", 2]["status"] == "ok"
    assert rows["k0", 2]["nps"] is not None


def test_bytes_that_rotted_on_disk_are_found(score: Callable[..., Any], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_bad_fraction": 0.9})
    _, path = score(*bags(2, 1), settings=settings)
    tar = tmp_path / "views" / "00000.tar"
    row = next(PictureShard(tar).rows())
    content = bytearray(tar.read_bytes())
    content[(row.offset or 0) + 40] ^= 1
    tar.write_bytes(content)
    arguments = (tmp_path / "real" / "00000.tar", tar, f"pixels:{PATCH}", path)
    scoring.score_shard(settings, *arguments, source="s_ldm", device=CPU)
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
    facts, path = score(real, views)
    assert (facts["pairs"], facts["without_views"]) == (2, 1)
    assert table_facts(path)["without_views"] == 1


def test_views_of_other_shards_are_refused(score: Callable[..., Any]) -> None:
    real, views = bags(3, 1)
    del real["k2", 0]
    with pytest.raises(ValueError, match=r"'k2' have no real image.*rerun the views stage"):
        score(real, views)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(score: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"image_size = 50 is not a multiple of the patch size 8 .*use 48"):
        score(*bags(1, 1), settings=ScoringSettings(image_size=50))


def test_an_empty_shard_gives_an_empty_table(score: Callable[..., Any]) -> None:
    facts, path = score({}, {})
    assert facts["pairs"] == 0
    assert pq.read_table(path).num_rows == 0
