"""Scores of images at hand, without shards: what the stage computes, for a notebook. Shapes: P pairs, T tokens (CLS first), D width."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from cdgmae.consistency.score_tables import METRICS
from cdgmae.consistency.scoring.bag_embedding import Embedder
from cdgmae.consistency.scoring.similarities import pair_similarities
from cdgmae.models.encoders.frozen_encoder import Encoder, given_encoder
from cdgmae.models.normalisation import Images, square, to_images
from cdgmae.settings.consistency import ScoringSettings


def score_pairs(
    images_a: Images,
    images_b: Images,
    encoder: Encoder,
    *,
    image_size: int = 224,
    final_norm: bool = True,
    batch_size: int = 64,
    precision: str = "fp32",
) -> pd.DataFrame:
    """Global, local and nearest-patch similarity of image pairs (paper, section 3.2, equations 1 to 3).

    Each image is treated as stage `consistency` treats it: its shorter side is scaled to `image_size` (bicubic, antialiased), the central
    square is cut out and ImageNet-normalised.

    Args:
        images_a: One image for all pairs (a real image), or one per pair.
        images_b: The other image of each pair (its views).
        encoder: What sees them; `load_encoder` gives one. Paper: ViT-B/16 MAE.
        image_size: Side in pixels at which images are compared, a multiple of the encoder's patch size. Paper: 224.
        final_norm: Compare tokens after the encoder's final norm, or those of the last block before it.
        batch_size: Pairs at a time.
        precision: Arithmetic of the encoder: fp32, bf16 or fp16; scores are computed in float32.

    Returns:
        One row per pair, columns `gs`, `ls`, `nps` and `nps_reverse` (from `images_b` to `images_a`), cosines in -1..1.

    Raises:
        ValueError: if an image is none (`Images` says what is), the numbers do not fit, a setting is out of range, or `image_size` does not fit the
            encoder.
    """
    first, second = to_images(images_a, "images_a"), to_images(images_b, "images_b")
    if len(first) not in (1, len(second)):
        raise ValueError(
            f"{len(first)} images_a and {len(second)} images_b; give as many of both, or one of images_a for all pairs"
        )
    settings = ScoringSettings.checked({"image_size": image_size, "batch_size": batch_size}, "score_pairs")
    image_size, batch_size, encoder = settings.image_size, settings.batch_size, given_encoder(encoder)
    embed = Embedder(encoder, final_norm=final_norm, device=encoder.device, precision=precision)
    x_1TD = embed([square(first[0], image_size)]) if len(first) == 1 else None
    scores: list[Tensor] = []
    for start in range(0, len(second), batch_size):
        part = slice(start, start + batch_size)
        y_PTD = embed([square(image, image_size) for image in second[part]])
        x_PTD = embed([square(image, image_size) for image in first[part]]) if x_1TD is None else x_1TD.expand_as(y_PTD)
        scores.append(pair_similarities(x_PTD, y_PTD))
    return pd.DataFrame(torch.cat(scores).cpu().numpy(), columns=list(METRICS))
