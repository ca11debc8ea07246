"""Training that starts from another generator, and weights saved in half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cdgmae.generators.generator_folder import load_generator
from cdgmae.generators.train.generator_training import train_generator
from cdgmae.settings.encoder import parse_encoder
from tests.generators.conftest import ENCODER, ON_CPU, training_settings

OTHER_ENCODER = ENCODER.replace('"depth":1', '"depth":2')


def train(folder: Path, tar: Path, encoder: str = ENCODER, **changes: object) -> dict[str, Any]:
    settings = training_settings(**changes)
    return train_generator(settings, 0, [tar], parse_encoder(encoder), folder / "generator", folder / "work", ON_CPU)


def test_a_training_goes_on_from_another_generator_with_an_encoder_of_its_own(
    generator_dir: Path, shard_tar: Path, tmp_path: Path
) -> None:
    still = {"learning_rate": 1e-12, "num_steps": 1, "warmup_steps": 0}
    train(tmp_path, shard_tar, OTHER_ENCODER, start_from=str(generator_dir), **still)
    given, found = load_generator(generator_dir), load_generator(tmp_path / "generator")
    for part in ("unet", "projector", "autoencoder"):
        before, after = (getattr(generator.pipeline, part).state_dict() for generator in (given, found))
        for name, tensor in before.items():
            torch.testing.assert_close(after[name], tensor, msg=lambda text, name=name: f"{name}: {text}")
    assert found.encoder.digest != given.encoder.digest
    assert found.metadata.provenance["inputs"][str(generator_dir)] == given.metadata.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_type": "epsilon"}, "scheduler: prediction_type is v_prediction, not epsilon"),
        ({"null_condition": "zero_token"}, "projector: null_condition is zero_input, not zero_token"),
        (
            {"autoencoder": {"kind": "patch_pca", "patch_size": 2, "latent_channels": 5}},
            "autoencoder: latent_channels is 4, not 5",
        ),
        ({"autoencoder": {"kind": "none"}}, "autoencoder: kind is patch_pca, not none"),
        (
            {"unet": {**training_settings().unet.model_dump(), "block_out_channels": [8, 8]}},
            r"unet: block_out_channels is \[8, 16\], not \[8, 8\]",
        ),
    ],
)
def test_a_generator_of_another_kind_is_no_start(
    generator_dir: Path, shard_tar: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"start_from = .*{message}.*give the settings that it was trained with"):
        train(tmp_path, shard_tar, start_from=str(generator_dir), **changes)


def test_a_start_keeps_its_projector() -> None:
    with pytest.raises(ValueError, match="whiten_condition replaces the projector that start_from brings"):
        training_settings(start_from="somewhere", whiten_condition=True)


def test_half_precision_halves_the_files_and_is_read_as_it_was_written(
    generator_dir: Path, shard_tar: Path, tmp_path: Path
) -> None:
    result = train(tmp_path, shard_tar, weights_precision="fp16")
    whole, half = load_generator(generator_dir), load_generator(tmp_path / "generator")
    assert half.metadata.digest == result["digest"] != whole.metadata.digest
    assert half.pipeline.unet.dtype == torch.float32
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "generator" / weights).stat().st_size < 0.7 * (generator_dir / weights).stat().st_size
    for name, tensor in whole.pipeline.unet.state_dict().items():
        assert torch.equal(half.pipeline.unet.state_dict()[name], tensor.half().float())
    assert json.loads((tmp_path / "generator/cdgmae.json").read_text())["provenance"]["settings"]["weights_precision"] == "fp16"
