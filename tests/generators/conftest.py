"""Small shards and a small trained generator for the tests of generators and views."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdgmae.generators.train.generator_training import train_generator
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.settings.views import GeneratorTrainingSettings
from cdgmae.storage.image_shards import BAD, ImageRow, ImageShardWriter

ON_CPU = RuntimeSettings(device="cpu")

ENCODER = 'random:{"image_size":16,"patch_size":8,"embed_dim":16,"depth":1,"num_heads":2}'
KEYS = ("ant", "bee", "cat", "dog", "eel", "fox")


def image(key: str, side: int = 24) -> bytes:
    """A smooth image that depends on its key."""
    colours = np.random.default_rng(list(key.encode())).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((side + 8, side), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def write_shard(tar: Path, keys: Sequence[str], corrupt: Sequence[str] = (), bad: Sequence[str] = ()) -> Path:
    """An image shard; `corrupt` keys have bytes that are no image, `bad` keys were refused by the shards stage."""
    with ImageShardWriter(tar) as writer:
        for key in keys:
            data = b"no image" if key in corrupt else image(key)
            writer.add_image(ImageRow(key, 0, class_name="animal", extension="jpg", width=32, height=24), data)
        for key in bad:
            writer.add_failure(ImageRow(key, 0, status=BAD, reason="truncated"))
        writer.commit(settings_digest="test")
    return tar


def training_settings(**changes: object) -> GeneratorTrainingSettings:
    """A generator that trains in a second."""
    values: dict[str, object] = {
        "dataset": "animals", "encoder": {"timm": "unused"}, "encoder_image_size": 16, "image_size": 16,
        "autoencoder": {"kind": "patch_pca", "patch_size": 2, "latent_channels": 4},
        "unet": {"block_out_channels": [8, 16], "attention_levels": [1], "layers_per_block": 1, "num_heads": 2, "cross_attention_dim": 8},
        "prediction_type": "v_prediction", "num_steps": 6, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 2, "ema_decay": 0.5,
    }  # fmt: skip
    return GeneratorTrainingSettings.from_plain({**values, **changes})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shard_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("shards") / "00000.tar", KEYS, bad=["gnu"])


@pytest.fixture(scope="session")
def generator_dir(shard_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generators")
    output = folder / "animals"
    train_generator(training_settings(), 0, [shard_tar], parse_encoder(ENCODER), output, folder / "work", ON_CPU)
    return output
