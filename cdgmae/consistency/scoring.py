"""Scoring of one shard: every picture is embedded once, every generated view is compared with its real image.

Shapes: B pictures of a batch, P pairs, T tokens (CLS first), D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from cdgmae.consistency.metrics import global_similarity, local_similarity, nearest_patch_similarity
from cdgmae.consistency.tables import METRICS, SCORE_SCHEMA, check_scores
from cdgmae.models.encoders import Encoder, load_encoder
from cdgmae.models.normalisation import normalise, pixels_to_tensor
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.storage.images import PictureError, center_crop, decode_rgb, resize_shorter_side
from cdgmae.storage.picture_shards import BAD, OK, PictureRow, PictureShard, index_path
from cdgmae.storage.tables import file_sha256, write_table

MAX_PIXELS = 1 << 28
"""Pictures in shards were checked when they were packed; this only stops a header that lies about its size."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the shard on its way through the encoder: pixels, or the reason why there are none."""

    key: str
    view_index: int
    image: Image.Image | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedPicture:
    """One picture after the encoder: its tokens (T, D) in fp32, empty where there is a reason."""

    key: str
    view_index: int
    tokens_TD: Tensor
    reason: str | None


@dataclass(frozen=True, slots=True)
class PairScore:
    """One row of the score table, see `SCORE_SCHEMA`."""

    key: str
    view_b: int
    status: str = OK
    reason: str | None = None
    gs: float | None = None
    ls: float | None = None
    nps: float | None = None
    nps_reverse: float | None = None
    view_a: int = 0


def score_shard(
    settings: ScoringSettings,
    real_tar: Path,
    view_tar: Path,
    encoder_reference: str,
    output: Path,
    *,
    source: str,
    device: torch.device,
) -> dict[str, Any]:
    """Score every generated view of a shard against its real image and write the table.

    Each picture is decoded and embedded once. Its shorter side is scaled to `image_size` (bicubic, antialiased), the central
    square is cut out and ImageNet-normalised; tokens are those after the encoder's final norm, as in label propagation.

    Args:
        settings: Size, batch and tolerated bad share.
        real_tar: Shard of real images (view_index 0).
        view_tar: Shard of generated views (view_index >= 1) of the same keys.
        encoder_reference: See `cdgmae.models.encoders.load_encoder`.
        output: Parquet file, `SCORE_SCHEMA`, sorted by key and view_b; appears whole or not at all.
        source: Name of the view source, stored in every row.
        device: Where to compute.

    Returns:
        Counts (`pairs`, `bad`, `without_views`: real images that have no view at all) and the means of the scores.

    Raises:
        ValueError: if shards do not belong together, image_size does not suit the encoder, or too many pairs are bad.
    """
    encoder = load_encoder(encoder_reference, device=device)
    check_image_size(settings.image_size, encoder, encoder_reference)
    real, views = PictureShard(real_tar), PictureShard(view_tar)
    bags = _join(real, views)
    without_views = sum(row.key not in bags for row in real.rows(OK))
    pictures = _load_pictures(bags, real, views, settings.image_size)
    scores: list[PairScore] = []
    with ProgressMeter(f"score {source} {view_tar.stem}", sum(len(rows) - 1 for rows in bags.values()), unit="pairs") as progress:
        for batch in _score_bags(pictures, encoder, settings.batch_size, device):
            scores.extend(batch)
            progress.advance(len(batch))
    _check_bad_fraction(scores, settings.max_bad_fraction, view_tar)
    table = _as_table(scores, source, encoder.digest)
    check_scores(table)
    inputs = {"real": file_sha256(index_path(real_tar)), "views": file_sha256(index_path(view_tar)), "encoder": encoder.digest}
    facts = {
        "source": source, "real_shard": f"{real_tar.parent.name}/{real_tar.stem}", "encoder_reference": encoder_reference,
        "image_size": settings.image_size, "tokens": "after the final norm", "without_views": without_views,
    }  # fmt: skip
    write_table(output, table, SCORE_SCHEMA, settings_digest=settings.digest(), inputs=inputs, extra=facts)
    return {
        "output": str(output), "pairs": len(scores), "bad": sum(score.status == BAD for score in scores),
        "without_views": without_views, "encoder": encoder.digest, **{name: pc.mean(table[name]).as_py() for name in METRICS},
    }  # fmt: skip


def check_image_size(image_size: int, encoder: Encoder, reference: str) -> None:
    """Refuse a picture size that the encoder cannot cut into whole patches.

    Raises:
        ValueError: naming the nearest size that works.
    """
    patch = encoder.patch_size
    if image_size % patch:
        raise ValueError(
            f"consistency.image_size = {image_size} is not a multiple of the patch size {patch} of encoder {reference!r}; "
            f"use {max(patch, round(image_size / patch) * patch)}"
        )


def prepare_picture(data: bytes, image_size: int) -> Image.Image:
    """Decode a picture, scale its shorter side to `image_size` pixels and cut out the central square.

    Raises:
        PictureError: if the bytes are no whole picture.
    """
    return center_crop(resize_shorter_side(decode_rgb(data, MAX_PIXELS), image_size), image_size)


def _join(real: PictureShard, views: PictureShard) -> dict[str, list[PictureRow]]:
    """Real row and view rows by key, keys and views in order; raises if a view has no real image."""
    bags = {row.key: [row] for row in real.rows()}
    orphans = sorted({row.key for row in views.rows() if row.key not in bags})
    if orphans:
        raise ValueError(
            f"{views.tar_path}: {len(orphans)} key(s) such as {orphans[0]!r} have no real image in {real.tar_path}; "
            "the views were made from other shards, rerun the views stage"
        )
    for row in views.rows():
        bags[row.key].append(row)
    return {
        key: [bags[key][0], *sorted(bags[key][1:], key=lambda row: row.view_index)] for key in sorted(bags) if len(bags[key]) > 1
    }


def _score_bags(
    pictures: Iterator[Picture], encoder: Encoder, batch_size: int, device: torch.device
) -> Iterator[list[PairScore]]:
    """Scores of the pairs of one encoder pass after the other; a real image's tokens live until its last view is scored."""
    real: EmbeddedPicture | None = None
    while batch := list(islice(pictures, batch_size)):
        pairs: list[tuple[EmbeddedPicture, EmbeddedPicture]] = []
        failures: list[PairScore] = []
        for picture in _embed(batch, encoder, device):
            if picture.view_index == 0 or real is None:
                real = picture
            elif real.reason is not None:
                failures.append(PairScore(picture.key, picture.view_index, BAD, f"real image: {real.reason}"))
            elif picture.reason is not None:
                failures.append(PairScore(picture.key, picture.view_index, BAD, f"view: {picture.reason}"))
            else:
                pairs.append((real, picture))
        yield _score_pairs(pairs) + failures


def _load_pictures(
    bags: dict[str, list[PictureRow]], real: PictureShard, views: PictureShard, image_size: int
) -> Iterator[Picture]:
    """All pictures, each once: the real image of a key, then its views."""
    for rows in bags.values():
        for row in rows:
            shard = real if row.view_index == 0 else views
            try:
                yield Picture(row.key, row.view_index, image=prepare_picture(_read(shard, row), image_size))
            except PictureError as error:
                yield Picture(row.key, row.view_index, reason=str(error))


def _read(shard: PictureShard, row: PictureRow) -> bytes:
    """The bytes of one picture; what the index already calls bad, or bytes that changed since, is a `PictureError`."""
    if row.status != OK:
        raise PictureError(row.reason or "marked bad in the index")
    data = shard.read(row)
    if row.sha256 is not None and sha256(data).hexdigest() != row.sha256:
        raise PictureError("bytes differ from the SHA-256 in the index")
    return data


def _embed(pictures: list[Picture], encoder: Encoder, device: torch.device) -> list[EmbeddedPicture]:
    """All pictures through the encoder in one pass, in order; those without pixels keep their reason."""
    images = [picture.image for picture in pictures if picture.image is not None]
    tokens_BTD = encoder.tokens(normalise(pixels_to_tensor(images).to(device))).float() if images else torch.empty(0)
    tokens, nothing = iter(tokens_BTD), torch.empty(0)
    return [
        EmbeddedPicture(picture.key, picture.view_index, nothing if picture.image is None else next(tokens), picture.reason)
        for picture in pictures
    ]


def _score_pairs(pairs: list[tuple[EmbeddedPicture, EmbeddedPicture]]) -> list[PairScore]:
    """All four scores of pairs of (real image, view)."""
    if not pairs:
        return []
    x_PTD = torch.stack([real.tokens_TD for real, _ in pairs])
    y_PTD = torch.stack([view.tokens_TD for _, view in pairs])
    nps, nps_reverse = nearest_patch_similarity(x_PTD[:, 1:], y_PTD[:, 1:])
    gs, ls = global_similarity(x_PTD[:, 0], y_PTD[:, 0]), local_similarity(x_PTD[:, 1:], y_PTD[:, 1:])
    values_P4 = torch.stack([gs, ls, nps, nps_reverse], dim=1).tolist()
    return [
        PairScore(view.key, view.view_index, **dict(zip(METRICS, values, strict=True)))
        for (_, view), values in zip(pairs, values_P4, strict=True)
    ]


def _check_bad_fraction(scores: list[PairScore], limit: float, view_tar: Path) -> None:
    bad = [score for score in scores if score.status == BAD]
    if len(bad) <= limit * len(scores):
        return
    reasons = "; ".join(f"{reason} ({count}x)" for reason, count in Counter(score.reason for score in bad).most_common(3))
    raise ValueError(
        f"{view_tar}: {len(bad)} of {len(scores)} pairs cannot be scored, more than consistency.max_bad_fraction = {limit} allows. "
        f"First: {bad[0].key}, view {bad[0].view_b}. Reasons: {reasons}. Repair the shards (rerun the stage that made them) or raise the limit."
    )


def _as_table(scores: list[PairScore], source: str, digest: str) -> pa.Table:
    scores = sorted(scores, key=lambda score: (score.key, score.view_b))
    rows = [{**asdict(score), "source": source, "encoder": digest} for score in scores]
    return pa.Table.from_pylist(rows, schema=SCORE_SCHEMA)
