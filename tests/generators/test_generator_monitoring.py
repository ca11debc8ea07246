"""What is looked at during a training, learned first stages, and several processes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from PIL import Image

from cdgmae.generators.build import build_pipeline
from cdgmae.generators.generator_folder import load_generator
from cdgmae.generators.train.denoising_task import Denoiser, GeneratorTask
from cdgmae.generators.train.generator_batches import make_first_stage, split
from cdgmae.generators.train.generator_training import train_generator
from cdgmae.generators.train.latent_cache import fill_cache
from cdgmae.generators.train.monitor import Monitor, held_out_loss
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.runtime.interrupts import Interrupted, StopRequest
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.settings.views import MonitoringSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.tables import read_table
from tests.generators.conftest import ENCODER, training_settings
from tests.warm_start import warm_programs

CPU = torch.device("cpu")
ON_CPU = RuntimeSettings(device="cpu")
LOOK = {"held_out_fraction": 0.34, "interval_steps": 2, "num_images": 2, "num_views": 3, "num_inference_steps": 2}


def train(folder: Path, tar: Path, **changes: object) -> dict:
    settings = training_settings(**changes)
    return train_generator(settings, 0, [tar], parse_encoder(ENCODER), folder / "generator", folder / "work", ON_CPU)


def task_and_monitor(tar: Path, folder: Path, **changes: object) -> tuple[GeneratorTask, Monitor]:
    settings, images = training_settings(**changes), Bags([tar]).usable()
    pipeline = build_pipeline(settings, 16, make_first_stage(images, settings), 0)
    cache = fill_cache(
        folder / "cache", "test", images, load_encoder(parse_encoder(ENCODER), device=CPU), pipeline, settings, CPU
    )
    task = GeneratorTask(Denoiser(pipeline.unet, pipeline.projector), pipeline.scheduler, split(cache, 0.34, 0), settings, 0)
    return task, Monitor(task, pipeline, images, MonitoringSettings.from_plain(LOOK), folder)


def test_held_out_loss_is_the_mean_loss_of_the_held_out_images(shard_tar: Path, tmp_path: Path) -> None:
    """An untrained denoiser predicts zero, so its loss is the mean square of the latents it should have predicted."""
    task, _ = task_and_monitor(shard_tar, tmp_path, prediction_type="sample")
    whole = held_out_loss(task)
    assert whole == held_out_loss(task)
    task.batch_size = 1
    assert held_out_loss(task) == pytest.approx(whole, rel=1e-5)
    chosen = [int(number) for number in task.examples.held_out]
    latents = task.examples.cache.latents([0, 0], chosen)
    assert whole == pytest.approx(float(latents.square().mean()), rel=1e-5)
    torch.nn.init.constant_(task.model.unet.conv_out.bias, 10.0)
    assert held_out_loss(task) > 50


def test_grid_has_the_real_image_first_and_looking_leaves_the_random_state_alone(shard_tar: Path, tmp_path: Path) -> None:
    task, monitor = task_and_monitor(shard_tar, tmp_path)
    before = torch.get_rng_state()
    monitor(2, task.model)
    monitor(3, task.model)
    assert torch.equal(before, torch.get_rng_state())
    assert task.model.training
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step00000002.png"]
    grid = Image.open(tmp_path / "samples" / "step00000002.png")
    assert grid.size == (4 * 18 - 2, 2 * 18 - 2)
    real = Image.open(tmp_path / "samples" / "step00000002.png").crop((0, 0, 16, 16))
    first = Bags([shard_tar]).usable().image(int(task.examples.held_out[0])).resize((21, 16), Image.Resampling.BICUBIC)
    centre = np.asarray(first.crop((2, 0, 18, 16)), dtype=float)
    assert np.abs(np.asarray(real, dtype=float) - centre).mean() < 8


def test_findings_survive_an_interruption_and_lie_in_the_generator_folder(
    shard_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(tmp_path / "straight", shard_tar, monitoring=LOOK)
    monkeypatch.setattr("cdgmae.training.loop.StopRequest", StopAfterThree)
    with pytest.raises(Interrupted, match="after step 3 of 6"):
        train(tmp_path / "cut", shard_tar, monitoring=LOOK)
    monkeypatch.undo()
    assert train(tmp_path / "cut", shard_tar, monitoring=LOOK)["digest"] == straight["digest"]
    tables = [read_table(tmp_path / name / "generator" / "validation.parquet").to_pylist() for name in ("straight", "cut")]
    assert tables[0] == tables[1]
    assert [(row["step"], row["weights"]) for row in tables[0]] == [(2, "current"), (4, "current"), (6, "averaged")]
    names = ["averaged.png", "step00000002.png", "step00000004.png"]
    for name in ("straight", "cut"):
        assert sorted(path.name for path in (tmp_path / name / "generator" / "samples").iterdir()) == names
    assert load_generator(tmp_path / "cut" / "generator", device=CPU).metadata.digest == straight["digest"]


class StopAfterThree(StopRequest):
    """Asks to stop at the third step."""

    asked = 0

    def reason(self) -> str | None:
        self.asked += 1
        return "SIGTERM" if self.asked == 3 else None


def save_stage(folder: Path, kind: str, scaling_factor: float = 1.0) -> None:
    torch.manual_seed(0)
    common = {"block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
              "latent_channels": 3, "norm_num_groups": 4, "scaling_factor": scaling_factor}  # fmt: skip
    stage = VQModel(**common, num_vq_embeddings=8) if kind == "vq" else AutoencoderKL(**common)
    stage.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_a_learned_first_stage_is_used_frozen_and_goes_into_the_folder(shard_tar: Path, tmp_path: Path, kind: str) -> None:
    save_stage(tmp_path / "stage", kind, scaling_factor=0.5)
    autoencoder = {"kind": "folder", "path": str(tmp_path / "stage")}
    train(tmp_path, shard_tar, autoencoder=autoencoder)
    pipeline = load_generator(tmp_path / "generator", device=CPU).pipeline
    assert (pipeline.latent_channels, pipeline.unet.config["sample_size"], pipeline.scaling_factor) == (3, 8, 0.5)
    original = (VQModel if kind == "vq" else AutoencoderKL).from_pretrained(tmp_path / "stage").state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in pipeline.autoencoder.state_dict().items())
    again = training_settings(autoencoder={"kind": "folder", "path": str(tmp_path / "generator" / "autoencoder")})
    assert (
        train_generator(again, 0, [shard_tar], parse_encoder(ENCODER), tmp_path / "more", tmp_path / "work", ON_CPU)["steps"] == 6
    )


def test_first_stages_that_do_not_fit_are_refused(shard_tar: Path, tmp_path: Path) -> None:
    save_stage(tmp_path / "stage", "vq", scaling_factor=0.18215)
    for path, image_size, message in (
        ("nowhere", 16, "no diffusers folder of a VQModel or AutoencoderKL"),
        ("stage", 16, r"scaling_factor 0\.18215 belongs to Stable Diffusion"),
        ("good", 18, "image_size = 18 is not a multiple of 4"),
    ):
        if path == "good":
            save_stage(tmp_path / path, "vq")
        with pytest.raises(ValueError, match=message):
            train(tmp_path, shard_tar, autoencoder={"kind": "folder", "path": str(tmp_path / path)}, image_size=image_size)


@pytest.mark.slow
def test_two_processes_train_the_same_generator(shard_tar: Path, tmp_path: Path) -> None:
    settings = training_settings(monitoring=LOOK, learning_rate=1e-4)
    alone = train_generator(settings, 0, [shard_tar], parse_encoder(ENCODER), tmp_path / "alone", tmp_path / "work", ON_CPU)
    command = [
        str(warm_programs() / "torchrun"), "--standalone", "--nproc_per_node", "2", "-m", "cdgmae", "views", "train-generator",
        "--settings", settings.canonical_json(), "--shards", str(shard_tar.parent), "--encoder", ENCODER,
        "--output", str(tmp_path / "two"), "--work", str(tmp_path / "work-two"), "--device", "cpu", "--threads", "1", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["final_loss"] == pytest.approx(alone["final_loss"], rel=1e-3)
    one, two = (load_generator(tmp_path / name, device=CPU).pipeline.unet.state_dict() for name in ("alone", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    assert not (tmp_path / "work-two").exists()
