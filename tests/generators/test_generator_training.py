"""Training a generator: what is learned from, what is written, and that interruptions leave no trace."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import torch
from diffusers import DDIMScheduler
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import save_file

from cdgmae.generators.build import build_pipeline, build_unet, component_weights
from cdgmae.generators.generator_folder import embed, load_generator
from cdgmae.generators.parts.patch_autoencoder import PatchAutoencoder
from cdgmae.generators.pipeline import predict
from cdgmae.generators.train.denoising_task import Denoiser, GeneratorTask
from cdgmae.generators.train.generator_batches import TrainingExamples, draw_batch, make_first_stage, split
from cdgmae.generators.train.generator_training import train_generator
from cdgmae.generators.train.latent_cache import fill_cache
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.models.encoders.checkpoints import write_encoder
from cdgmae.models.normalisation import squares
from cdgmae.models.vit import build_vit
from cdgmae.runtime.interrupts import Interrupted
from cdgmae.settings.encoder import EncoderSettings, VitSettings, parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.settings.views import UNetSettings
from cdgmae.storage.bags import Bags
from cdgmae.training.metrics import MACHINE_COLUMNS
from cdgmae.training.traced_memory import CONTEXT_BYTES
from tests.generators.conftest import ENCODER, KEYS, training_settings, write_shard
from tests.oracles.literal_ddim import alpha_bars

CPU = torch.device("cpu")
ON_CPU = RuntimeSettings(device="cpu")
UNET = training_settings().unet.model_dump()


def train(folder: Path, tars: list[Path], encoder: str = ENCODER, **changes: object) -> dict:
    return train_generator(
        training_settings(**changes), 0, tars, parse_encoder(encoder), folder / "generator", folder / "work", ON_CPU
    )


def test_trackers_mirror_the_training_where_they_get_a_folder(shard_tar: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    encoder, logs = parse_encoder(ENCODER), tmp_path / "logs"
    train_generator(
        training_settings(), 0, [shard_tar], encoder, tmp_path / "generator", tmp_path / "work", ON_CPU, tracker_dir=logs
    )
    events = EventAccumulator(str(logs / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(6))


def test_generator_folder_stands_alone(shard_tar: Path, tmp_path: Path) -> None:
    architecture = VitSettings(image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    encoder_file = tmp_path / "somewhere" / "encoder.safetensors"
    write_encoder(encoder_file, build_vit(architecture).state_dict(), architecture, {})
    result = train(tmp_path, [shard_tar], str(encoder_file))
    encoder_file.unlink()
    generator = load_generator(tmp_path / "generator", device=CPU)
    assert generator.metadata.digest == result["digest"]
    assert generator.metadata.encoder == EncoderSettings(checkpoint="encoder.safetensors")
    recorded = json.loads((tmp_path / "generator" / "cdgmae.json").read_text())["provenance"]
    assert recorded["settings"] == training_settings().model_dump(mode="json")
    assert len(recorded["inputs"]) == 1
    assert pq.read_table(tmp_path / "generator" / "metrics.parquet").num_rows == 6
    assert not (tmp_path / "work").exists()
    assert not list((tmp_path / "generator").rglob("*.bin"))


def test_weights_of_a_named_architecture_are_copied_too(shard_tar: Path, tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    weights = tmp_path / "weights@1.safetensors"
    save_file(timm.create_model(name, num_classes=0).state_dict(), weights)
    train(tmp_path, [shard_tar], f"{name}@{weights}")
    weights.unlink()
    assert load_generator(tmp_path / "generator", device=CPU).metadata.encoder == EncoderSettings(
        timm=name, checkpoint="encoder.safetensors"
    )


def test_damaged_or_foreign_folders_are_refused(generator_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no generator folder"):
        load_generator(tmp_path, device=CPU)
    copy = tmp_path / "copy"
    shutil.copytree(generator_dir, copy)
    result = json.loads((copy / "cdgmae.json").read_text())
    (copy / "cdgmae.json").write_text(json.dumps({**result, "encoder": {"random": {**result["encoder"]["random"], "depth": 2}}}))
    with pytest.raises(ValueError, match="conditioning encoder's weights"):
        load_generator(copy, device=CPU)
    (copy / "cdgmae.json").write_text(json.dumps(result))
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(ValueError, match="generator's weights"):
        load_generator(copy, device=CPU)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_generator(copy, device=CPU)


FOREIGN = {
    "a module of the folder": {"unet": ["evilsub", "UNet2DConditionModel"]},
    "a module on the import path": {"scheduler": ["subprocess", "Popen"]},
    "another class of a known library": {"autoencoder": ["diffusers", "FluxPipeline"]},
    "a part nobody asked for": {"extra": ["diffusers", "VQModel"]},
    "a pipeline of its own": {"_class_name": ["evilpipe", "P"]},
    "no list": {"unet": {"library": "diffusers"}},
}


@pytest.mark.parametrize("kind", [*FOREIGN, "a script", "no index"])
def test_a_folder_that_names_foreign_code_is_refused_before_any_library_sees_it(
    generator_dir: Path, tmp_path: Path, kind: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(generator_dir, copy)
    index = json.loads((copy / "model_index.json").read_text())
    for name in ("evilsub", "evilpipe"):
        if kind != "no index":
            (copy / "unet" / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    if kind in FOREIGN:
        for script in copy.rglob("*.py"):
            script.rename(tmp_path / script.name)
        (copy / "model_index.json").write_text(json.dumps({**index, **FOREIGN[kind]}))
    elif kind == "no index":
        (copy / "model_index.json").write_text("[" * 5000)
    with pytest.raises(ValueError, match=r"is not made of this package's and diffusers' parts alone|cannot be read"):
        load_generator(copy, device=CPU)
    assert not (tmp_path / "ran").exists()


def test_interrupted_training_ends_with_the_same_generator(
    shard_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(tmp_path / "straight", [shard_tar])
    monkeypatch.setenv("CDGMAE_TIME_LIMIT", "0")
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", [shard_tar])
    assert not (tmp_path / "cut" / "generator").exists()
    monkeypatch.delenv("CDGMAE_TIME_LIMIT")
    assert train(tmp_path / "cut", [shard_tar])["digest"] == straight["digest"]
    one, two = (pq.read_table(tmp_path / name / "generator" / "metrics.parquet") for name in ("straight", "cut"))
    assert one.drop_columns(MACHINE_COLUMNS).equals(two.drop_columns(MACHINE_COLUMNS))


def test_the_cut_of_the_data_into_shards_does_not_matter(shard_tar: Path, tmp_path: Path) -> None:
    halves = [write_shard(tmp_path / f"{n}.tar", keys) for n, keys in enumerate((KEYS[1::2], KEYS[::2]))]
    assert train(tmp_path / "one", [shard_tar])["digest"] == train(tmp_path / "two", halves)["digest"]


@pytest.mark.parametrize("in_time", [True, False])
def test_condition_reaches_residual_layers_only_if_asked_to(in_time: bool) -> None:
    """Attention's last layer starts at zero: what then still tells two conditions apart came through the time embedding."""
    settings = training_settings(unet={**UNET, "condition_in_time": in_time})
    unet = build_pipeline(settings, 8, None, seed=0).unet
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.normal_(module.conv2.weight, std=0.1)
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    side, width = unet.config["sample_size"], unet.config["cross_attention_dim"]
    noisy, tokens = torch.randn(1, unet.config["in_channels"], side, side), torch.randn(2, 1, width)
    first, second = (predict(unet, noisy, torch.tensor(500), token[None]) for token in tokens)
    assert torch.equal(first, second) is not in_time


@pytest.mark.parametrize("changes", [
    {"spread_weighting": 1.0, "schedule": "cosine"},
    {"autoencoder": {"kind": "none"}, "prediction_type": "epsilon"},
    {"null_condition": "learned", "horizontal_flip": False, "whiten_condition": True},
    {"prediction_type": "sample", "unet": {**UNET, "condition_in_time": True}},
])  # fmt: skip
def test_other_recipes_train(shard_tar: Path, tmp_path: Path, changes: dict) -> None:
    result = train(tmp_path, [shard_tar], **changes)
    assert result["images"] == len(KEYS)
    generator = load_generator(tmp_path / "generator", device=CPU)
    assert generator.pipeline.scheduler.config["prediction_type"] == changes.get("prediction_type", "v_prediction")


@pytest.fixture
def examples_of(tmp_path: Path) -> Callable[[Path], TrainingExamples]:
    def make(tar: Path) -> TrainingExamples:
        settings, images = training_settings(), Bags([tar]).usable()
        pipeline = build_pipeline(settings, 16, make_first_stage(images, settings), 0)
        cache = fill_cache(
            tmp_path / "cache", "test", images, load_encoder(parse_encoder(ENCODER), device=CPU), pipeline, settings, CPU
        )
        return split(cache, 0.0, 0)

    return make


def test_mirrored_examples_are_those_of_the_mirrored_image(
    shard_tar: Path, examples_of: Callable[[Path], TrainingExamples]
) -> None:
    cache, images = examples_of(shard_tar).cache, Bags([shard_tar]).usable()
    assert images.keys == list(KEYS)
    mirrored = squares([images.image(2)], 16).flip(-1)
    torch.testing.assert_close(
        cache.embeddings([1], [2])[0], embed(load_encoder(parse_encoder(ENCODER), device=CPU), mirrored)[0]
    )
    latents = cache.latents([0] * 6 + [1] * 6, [*range(6), *range(6)])
    assert latents.shape == (12, 4, 8, 8)
    assert float(latents.std()) == pytest.approx(1.0, abs=0.1)


def test_batches_visit_every_image_once_per_epoch_and_drop_the_asked_share(
    shard_tar: Path, examples_of: Callable[[Path], TrainingExamples]
) -> None:
    examples, settings = examples_of(shard_tar), training_settings(batch_size=4, embedding_dropout=0.25)
    batches = [draw_batch(examples, settings, 0, step) for step in range(150)]
    flat = torch.stack([examples.cache.latents([flip] * 6, range(6)).flatten(1) for flip in (0, 1)])
    seen = [
        int((flat - row.flatten()).square().sum(-1).min(0).values.argmin()) for batch in batches[:3] for row in batch["latents"]
    ]
    assert Counter(seen) == dict.fromkeys(range(6), 2)
    times = torch.stack([batch["timesteps"].sort().values for batch in batches])
    assert ((times * 4) // 1000 == torch.arange(4)).all()  # one timestep from each quarter
    assert float(torch.stack([batch["dropped"] for batch in batches]).float().mean()) == pytest.approx(0.25, abs=0.06)
    again = draw_batch(examples, settings, 0, 149)
    assert all(torch.equal(again[name], batches[149][name]) for name in again)
    shares = [draw_batch(examples, settings, 0, 149, samples) for samples in (range(0, 3), range(3, 4))]
    assert all(torch.equal(torch.cat([share[name] for share in shares]), again[name]) for name in again)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_loss_is_the_squared_error_of_the_stated_target(
    shard_tar: Path, examples_of: Callable[[Path], TrainingExamples], prediction: str
) -> None:
    examples, settings = examples_of(shard_tar), training_settings(prediction_type=prediction)
    pipeline = build_pipeline(settings, 16, None, 0)
    scheduler: DDIMScheduler = pipeline.scheduler

    class Silent(Denoiser):
        def forward(self, noisy, timesteps, embeddings, dropped):  # noqa: ANN001, ANN202
            self.seen = noisy
            return torch.zeros_like(noisy)

    model = Silent(pipeline.unet, pipeline.projector)
    batch = draw_batch(examples, settings, 0, 0)
    found = GeneratorTask(model, scheduler, examples, settings, 0).loss(model, batch, 0)
    alphas = torch.tensor(alpha_bars())[batch["timesteps"]].float()[:, None, None, None]
    noisy = alphas.sqrt() * batch["latents"] + (1 - alphas).sqrt() * batch["noise"]
    velocity = alphas.sqrt() * batch["noise"] - (1 - alphas).sqrt() * batch["latents"]
    target = {"v_prediction": velocity, "epsilon": batch["noise"], "sample": batch["latents"]}[prediction]
    torch.testing.assert_close(model.seen, noisy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found, target.square().mean(), atol=1e-4, rtol=1e-4)
    weighted = GeneratorTask(model, scheduler, examples, settings, 0, torch.tensor([6.0, 2.0, 0.0, 0.0])).loss(model, batch, 0)
    expected = (3 * target[:, 0].square().mean() + target[:, 1].square().mean()) / 4
    torch.testing.assert_close(weighted, expected, atol=1e-4, rtol=1e-4)


def test_memory_of_a_training_is_traced_and_leaves_the_task_as_it_was(
    shard_tar: Path, examples_of: Callable[[Path], TrainingExamples]
) -> None:
    settings = training_settings()
    pipeline = build_pipeline(settings, 16, make_first_stage(Bags([shard_tar]).usable(), settings), 0)
    model = Denoiser(pipeline.unet, pipeline.projector)
    task = GeneratorTask(model, pipeline.scheduler, examples_of(shard_tar), settings, 0)
    need, half = task.memory("fp32"), task.memory("bf16")
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert need.fixed - CONTEXT_BYTES == pytest.approx(6 * weights, rel=0.1)  # value, gradient, bucket, two moments, average
    assert half.per_sample < need.per_sample
    assert task.loss(model, task.batch(0, range(2)), 0).device.type == "cpu"
    assert type(pipeline.scheduler.alphas_cumprod) is torch.Tensor


def test_weights_follow_the_spread_of_the_components(shard_tar: Path) -> None:
    stage = make_first_stage(Bags([shard_tar]).usable(), training_settings())
    assert isinstance(stage, PatchAutoencoder)
    assert component_weights(stage, 0.0) is None
    assert component_weights(None, 1.0) is None
    torch.testing.assert_close(component_weights(stage, 2.0), stage.spread_L.square())


def test_default_settings_are_ldm4() -> None:
    """400.92 M parameters (spec view_generators 3), counted without memory."""
    with torch.device("meta"):
        unet = build_unet(UNetSettings(), channels=3, latent_size=64)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 400_920_579
    assert unet.config["block_out_channels"] == (192, 384, 576, 960)


def test_an_untrained_denoiser_predicts_zero_and_its_weights_depend_on_the_seed_alone() -> None:
    settings = training_settings(unet={**training_settings().unet.model_dump(), "time_embedding": "scale_shift"})
    one, two, other = (build_pipeline(settings, 16, None, seed) for seed in (0, 0, 1))
    prediction = one.unet(torch.randn(1, 3, 8, 8), 5, encoder_hidden_states=torch.randn(1, 1, 8)).sample
    assert torch.equal(prediction, torch.zeros_like(prediction))
    assert torch.equal(one.unet.conv_in.weight, two.unet.conv_in.weight)
    assert not torch.equal(one.unet.conv_in.weight, other.unet.conv_in.weight)
    assert one.unet.config["resnet_time_scale_shift"] == "scale_shift"


def test_dropped_rows_see_the_null_condition(shard_tar: Path) -> None:
    pipeline = build_pipeline(training_settings(), 16, None, 0)
    model, noisy = Denoiser(pipeline.unet, pipeline.projector).eval(), torch.randn(2, 3, 8, 8)
    times, embeddings = torch.tensor([10, 500]), torch.randn(2, 16)
    with torch.no_grad():
        found = model(noisy, times, embeddings, torch.tensor([True, False]))
        zeroed = model(noisy, times, embeddings * torch.tensor([[0.0], [1.0]]), torch.tensor([False, False]))
    torch.testing.assert_close(found, zeroed)


def test_shards_without_images_are_refused(tmp_path: Path) -> None:
    tar = write_shard(tmp_path / "00000.tar", [], bad=["gnu"])
    with pytest.raises(ValueError, match="no usable image"):
        train(tmp_path, [tar])
