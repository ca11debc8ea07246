"""Small bags of drawn images for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
from cdgmae.storage.media.images import encode_jpeg

RUN = PretrainRunSettings(
    image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2,
    num_anchors=2, anchor_masking_ratio=0.25, target_masking_ratio=0.75, epochs=6, warmup_epochs=1, effective_batch_size=8, base_learning_rate=0.05,
)  # fmt: skip


def image(number: int, view: int) -> bytes:
    """A JPEG of smooth random colours."""
    generator = np.random.default_rng([number, view])
    coarse = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return encode_jpeg(Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC), 90)


def write_bags(folder: Path, num_bags: int = 20, num_views: int = 3) -> tuple[list[Path], list[Path]]:
    """One shard of real images and one of views; returns their tars."""
    reals, views = [folder / "shards/00000.tar"], [folder / "views/00000.tar"]
    for path, indices in ((reals[0], [0]), (views[0], range(1, num_views + 1))):
        with ImageShardWriter(path) as writer:
            for number in range(num_bags):
                for index in indices:
                    row = ImageRow(f"n{number:04d}", index, extension="jpg", width=40, height=40)
                    writer.add_image(row, image(number, index))
            writer.commit(settings_digest="test")
    return reals, views
