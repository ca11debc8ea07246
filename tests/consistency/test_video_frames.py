"""Real video frames under an encoder that was trained here: near frames score above far ones, and these above strangers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.consistency.score_tables import METRICS
from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
from cdgmae.storage.media.images import decode_rgb, encode_jpeg, resize_shorter_side

CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "DAVIS" / "JPEGImages" / "480p"
ON_CPU = RuntimeSettings(device="cpu")
SIDE, NEAR, FAR = 96, 1, 30
RUN = PretrainRunSettings(
    pretext="crops", image_size=64, patch_size=8, embed_dim=96, depth=2, num_heads=3, decoder_embed_dim=64, decoder_depth=1,
    decoder_num_heads=4, epochs=6, warmup_epochs=1, effective_batch_size=16, base_learning_rate=0.016,
)  # fmt: skip

pytestmark = pytest.mark.skipif(not CLIPS.is_dir(), reason="no DAVIS clips beside the checkout (../shared/data)")


@pytest.fixture(scope="module")
def frames() -> dict[str, list[Image.Image]]:
    """Small frames by clip."""
    return {
        clip.name: [resize_shorter_side(decode_rgb(path.read_bytes()), SIDE) for path in sorted(clip.glob("*.jpg"))]
        for clip in sorted(CLIPS.iterdir())
    }


def write_shard(path: Path, images: dict[tuple[str, int], Image.Image]) -> Path:
    with ImageShardWriter(path) as writer:
        for (key, view_index), image in images.items():
            row = ImageRow(key, view_index, extension="jpg", width=image.width, height=image.height)
            writer.add_image(row, encode_jpeg(image, 95))
        writer.commit(settings_digest="test")
    return path


@pytest.mark.slow
def test_near_frames_score_above_far_ones_and_these_above_other_clips(
    frames: dict[str, list[Image.Image]], tmp_path: Path
) -> None:
    shard = write_shard(
        tmp_path / "frames" / "00000.tar",
        {(f"{clip}_{number:03d}", 0): image for clip, images in frames.items() for number, image in enumerate(images)},
    )
    arguments = ["--shards", str(shard.parent), "--output", str(tmp_path / "run"), "--settings", RUN.canonical_json()]
    trained = CliRunner().invoke(app, ["pretrain", "run", *arguments, "--device", "cpu", "--runtime", '{"trackers": []}'])
    assert trained.exit_code == 0, trained.output
    random, clips = np.random.default_rng(0), sorted(frames)
    real: dict[tuple[str, int], Image.Image] = {}
    views: dict[tuple[str, int], Image.Image] = {}
    for place, clip in enumerate(clips):
        stranger = frames[clips[(place + 1) % len(clips)]]
        for start in range(0, len(frames[clip]) - FAR, 2):
            key = f"{clip}_{start:03d}"
            real[key, 0] = frames[clip][start]
            pair = (frames[clip][start + NEAR], frames[clip][start + FAR], stranger[random.integers(len(stranger))])
            views.update({(key, index): image for index, image in enumerate(pair, start=1)})
    tars = [write_shard(tmp_path / f"{name}.tar", images) for name, images in (("real", real), ("views", views))]
    table = tmp_path / "scores.parquet"
    encoder = str(tmp_path / "run" / "encoder.safetensors")
    score_shard(ScoringSettings(image_size=SIDE), *tars, parse_encoder(encoder), table, source="video", runtime=ON_CPU)
    means = pq.read_table(table).to_pandas().groupby("view_b")[list(METRICS)].mean()
    for metric in METRICS:
        near, far, other = means[metric]
        assert near > far > other, f"{metric}: {near:.4f}, {far:.4f}, {other:.4f}"
    assert means.loc[1, "ls"] < means.loc[1, "nps"]
