"""Conversion of original checkpoints: what is computed afterwards, what is refused, and what the report says."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel, VQModel
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, resize
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.generators.generator_folder import embed, load_generator
from cdgmae.generators.imported.convert import import_generator
from cdgmae.generators.imported.original_checkpoint import ImportRefused
from cdgmae.generators.imported.original_config import read_original_config
from cdgmae.generators.pipeline import LatentDiffusionPipeline, predict
from cdgmae.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.settings.views import ImportSettings, SamplingSettings
from cdgmae.views.sampling.generator_sampler import GeneratorRecipe
from cdgmae.views.sampling.sample_shard import sample_shard
from tests.generators.conftest import ENCODER
from tests.generators.original_files import (
    ENCODER_DIM,
    LDM4,
    LDM8,
    VQ_F4,
    VQ_F8,
    config_file,
    linear_checkpoint,
    literal_rcg_embedding,
    networks,
    random_weight,
    rcg_checkpoint,
    zoomldm_checkpoint,
)
from tests.oracles.literal_ldm import Weights, linear, literal_decode, literal_encode, literal_grid_tokens, literal_unet

CPU = torch.device("cpu")
ON_CPU = RuntimeSettings(device="cpu")
UNET, STAGE = "model.diffusion_model", "first_stage_model"


@pytest.fixture(scope="module")
def plain() -> Weights:
    return linear_checkpoint()


def convert(
    folder: Path,
    state: dict[str, Tensor],
    config: Path | None = None,
    options: ImportSettings = ImportSettings(),
    **beside: object,
) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "epoch": 3, **beside}, folder / "ldm.ckpt")
    config = config or config_file(folder / "ldm.yaml", LDM4, VQ_F4)
    return import_generator(folder / "ldm.ckpt", config, folder / "generator", options)


def loaded(folder: Path) -> LatentDiffusionPipeline:
    return LatentDiffusionPipeline.from_pretrained(folder / "generator")


def report(folder: Path) -> dict:
    return json.loads((folder / "generator" / "import_report.json").read_text())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


def check_networks(pipeline: LatentDiffusionPipeline, w: Weights, unet: dict, stage: dict) -> None:
    """U-Net, encoder and decoder compute what the original networks compute."""
    generator = torch.Generator().manual_seed(0)
    side = unet["image_size"]
    noisy = torch.randn(2, unet["in_channels"], side, side, generator=generator)
    tokens, times = torch.randn(2, 3, unet["context_dim"], generator=generator), torch.tensor([900, 30])
    images, latents = (
        torch.rand(1, 3, 32, 32, generator=generator),
        torch.randn(1, stage["z_channels"], 4, 4, generator=generator),
    )
    with torch.no_grad():
        close(predict(pipeline.unet, noisy, times, tokens), literal_unet(w.at(UNET), unet, noisy, times, tokens))
        close(pipeline.encode(images), literal_encode(w.at(STAGE), stage, images))
        close(pipeline.decode(latents), literal_decode(w.at(STAGE), stage, latents))


def test_rcg_checkpoint_converts_with_its_encoder_and_samples(shard_tar: Path, tmp_path: Path) -> None:
    w = rcg_checkpoint()
    w.state |= {
        f"{STAGE}.loss.discriminator.main.0.weight": torch.ones(1),
        f"{STAGE}.loss.perceptual_loss.lin0.weight": torch.ones(1),
    }
    encoder_config = {"params": {"pretrained_enc_arch": "mocov3_vit_base", "pretrained_enc_withproj": True}}
    config = config_file(tmp_path / "rcg.yaml", LDM8, VQ_F8, pretrained_enc_config=encoder_config)
    torch.save({"model": w.state, "model_ema": None, "epoch": 39}, tmp_path / "rcg.pth")
    result = import_generator(tmp_path / "rcg.pth", config, tmp_path / "generator", ImportSettings())
    assert result["layout"] == "RCG"
    reasons = report(tmp_path)["ignored"]
    assert reasons[f"{STAGE}.loss.discriminator.main.0.weight"].startswith("perceptual loss and discriminator")
    assert "class embedding" in reasons["cond_stage_model.embedding.weight"]

    generator, images = load_generator(tmp_path / "generator", device=CPU), torch.rand(2, 3, 16, 16)
    check_networks(generator.pipeline, w, LDM8, VQ_F8)
    assert list(generator.pipeline.unet.config["attention_head_dim"]) == [1, 2, 4]
    embeddings = literal_rcg_embedding(w, images)
    close(embed(generator.encoder, images), embeddings)
    larger = torch.rand(2, 3, 32, 32)
    scaled = resize(normalize(larger, IMAGENET_MEAN, IMAGENET_STD), [16, 16], InterpolationMode.BICUBIC, antialias=False)
    close(
        embed(generator.encoder, larger),
        literal_rcg_embedding(
            w,
            normalize(scaled, [-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], [1 / s for s in IMAGENET_STD]),
        ),
    )
    assert generator.metadata.encoder_image_size == generator.metadata.image_size != 16
    token = generator.pipeline.condition(embeddings)
    close(token[:, 0], (embeddings - embeddings.mean(1, keepdim=True)) / embeddings.std(1, keepdim=True))
    sampling = SamplingSettings.from_plain(
        {"num_views": 1, "num_inference_steps": 1, "guidance_scale": 1.0, "eta": 1.0, "batch_size": 6}
    )
    recipe, output = GeneratorRecipe(tmp_path / "generator", sampling), tmp_path / "views" / "00000.tar"
    sampled = sample_shard(sampling, 0, shard_tar, recipe, output, tmp_path / "work", runtime=ON_CPU)
    assert (sampled["views"], sampled["bad"]) == (6, 0)
    with pytest.raises(ValueError, match="no null condition; use guidance_scale 1"):
        generator.pipeline.sample_latents(embeddings, torch.zeros(2, 4, 8, 8), 1, 2.0)


def test_published_sizes_have_the_published_numbers_of_parameters(tmp_path: Path) -> None:
    """LDM-4 with VQ-f4 and RCG's LDM-8 with VQ-f8, counted without memory (spec view_generators 3 and 5)."""
    four = {**LDM4, "image_size": 64, "model_channels": 192, "attention_resolutions": [8, 4, 2], "num_res_blocks": 2,
            "channel_mult": [1, 2, 3, 5], "context_dim": 512}  # fmt: skip
    eight = {**LDM8, "image_size": 32, "model_channels": 256, "context_dim": 256}
    vq_f4 = {**VQ_F4, "resolution": 256, "ch": 128, "ch_mult": [1, 2, 4], "num_res_blocks": 2, "n_embed": 8192}
    vq_f8 = {**VQ_F8, "resolution": 256, "ch": 128, "attn_resolutions": [32], "n_embed": 16384}
    for unet, stage, millions in ((four, vq_f4, (400.92, 55.3)), (eight, vq_f8, (389.87, 67.7))):
        config = read_original_config(config_file(tmp_path / "big.yaml", unet, stage))
        with torch.device("meta"):
            modules = UNet2DConditionModel(**config.unet), VQModel(**config.stage)
        for module, expected in zip(modules, millions, strict=True):
            assert sum(parameter.numel() for parameter in module.parameters()) / 1e6 == pytest.approx(expected, abs=0.06)
        assert config.image_size == 256


def test_zoomldm_checkpoint_gives_its_many_tokens(tmp_path: Path) -> None:
    w = zoomldm_checkpoint()
    result = convert(
        tmp_path, w.state, config_file(tmp_path / "zoom.yaml", LDM4, VQ_F4, cond_stage_config={"params": {"num_layers": 2}})
    )
    assert result["layout"] == "ZoomLDM"
    pipeline, embeddings = loaded(tmp_path), torch.randn(2, ENCODER_DIM)
    with torch.no_grad():
        close(pipeline.condition(embeddings), literal_grid_tokens(w.at("cond_stage_model"), embeddings, 24, 24, 2, 40, 5))
    assert torch.equal(pipeline.null_tokens(2), torch.zeros(2, 65, 24))
    assert pipeline.sample_latents(embeddings, torch.randn(2, 3, 8, 8), 2, 2.0).isfinite().all()


def test_moving_average_is_preferred_and_must_be_whole(plain: Weights, tmp_path: Path) -> None:
    averages = {
        f"model_ema.{key.removeprefix('model.').replace('.', '')}": tensor * 0.5
        for key, tensor in plain.state.items()
        if UNET in key
    }
    state = {**plain.state, **averages, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    assert convert(tmp_path / "ema", state)["weights"] == "moving average"
    halved = Weights(random_weight, state={key: tensor * 0.5 if UNET in key else tensor for key, tensor in plain.state.items()})
    check_networks(loaded(tmp_path / "ema"), halved, LDM4, VQ_F4)
    assert report(tmp_path / "ema")["ignored"][f"{UNET}.out.2.bias"] == "replaced by its moving average"
    with pytest.raises(ImportRefused, match=r"1 missing: model_ema\.diffusion_modelout2bias"):
        convert(tmp_path / "cut", {key: tensor for key, tensor in state.items() if key != "model_ema.diffusion_modelout2bias"})


def test_kl_stage_and_stored_scaling_factor(tmp_path: Path) -> None:
    stage = {**{name: value for name, value in VQ_F4.items() if name != "n_embed"}, "double_z": True}
    w = networks(LDM4, stage)
    linear(w.at("cond_stage_model.anything"), torch.zeros(1, ENCODER_DIM), LDM4["context_dim"])
    w.state["scale_factor"] = torch.tensor(0.25)
    convert(tmp_path, w.state, config_file(tmp_path / "kl.yaml", LDM4, stage, scale_by_std=True, parameterization="v"))
    pipeline, images = loaded(tmp_path), torch.rand(1, 3, 32, 32)
    assert pipeline.scaling_factor == 0.25
    assert pipeline.scheduler.config["prediction_type"] == "v_prediction"
    with torch.no_grad():
        close(pipeline.encode(images), 0.25 * literal_encode(w.at(STAGE), stage, images)[:, :3])
        close(pipeline.decode(torch.ones(1, 3, 4, 4)), literal_decode(w.at(STAGE), stage, torch.full((1, 3, 4, 4), 4.0)))


def test_noise_levels_come_from_the_configuration_and_survive_another_solver(plain: Weights, tmp_path: Path) -> None:
    config = config_file(tmp_path / "ldm.yaml", LDM4, VQ_F4, linear_start="1e-4", linear_end=0.02)
    convert(tmp_path, plain.state, config)
    pipeline = loaded(tmp_path)
    betas = torch.linspace(1e-4**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod.double(), alphas, rtol=1e-4, atol=0)
    pipeline.set_scheduler("dpm_solver")
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod.double(), alphas, rtol=1e-4, atol=0)
    with pytest.raises(ImportRefused, match="other noise levels"):
        convert(tmp_path / "other", {**plain.state, "alphas_cumprod": alphas.float()})


def damaged(change: Callable[[dict[str, Tensor]], object]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def apply(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = dict(state)
        change(state)
        return state

    return apply


@pytest.mark.parametrize(("change", "message"), [
    (damaged(lambda state: state.pop(f"{STAGE}.quantize.embedding.weight")), "1 missing: first_stage_model.quantize.embedding.weight"),
    (damaged(lambda state: state.update({f"{UNET}.label_emb.0.weight": torch.ones(2)})), "1 unexpected: model.diffusion_model.label_emb"),
    (damaged(lambda state: state.update({f"{UNET}.out.2.bias": torch.ones(4)})), r"1 reshaped: .*\[4\] instead of \[3\]"),
    (damaged(lambda state: [state.pop(key) for key in list(state) if key.startswith("cond_stage_model")]), "nothing to condition on"),
])  # fmt: skip
def test_partial_matches_are_refused_with_a_whole_report(
    plain: Weights, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(ImportRefused, match=message):
        convert(tmp_path, change(plain.state))
    assert not (tmp_path / "generator").exists()
    beside = tmp_path / "generator.import_report.json"
    if "nothing" not in message:
        assert json.loads(beside.read_text())["counts"]["matched"] > 300
        convert(tmp_path, plain.state)
        assert not beside.exists()


def test_keys_can_be_ignored_by_name(plain: Weights, tmp_path: Path) -> None:
    state = {**plain.state, "cond_stage_model.backbone.bias": torch.ones(3)}
    with pytest.raises(ImportRefused, match=r"unexpected: cond_stage_model\.backbone"):
        convert(tmp_path, state)
    convert(tmp_path, state, options=ImportSettings(ignore=("cond_stage_model.backbone.",)))
    assert report(tmp_path)["ignored"] == {"cond_stage_model.backbone.bias": "asked for by `ignore`"}


@pytest.mark.parametrize(("unet", "model", "message"), [
    ({**LDM4, "resblock_updown": True}, {}, "resblock_updown = True is not supported"),
    ({**LDM4, "magic": 3}, {}, "magic = 3 is not understood"),
    ({**LDM4, "num_heads": None}, {}, "neither num_heads nor num_head_channels"),
    ({name: value for name, value in LDM4.items() if name != "channel_mult"}, {}, "channel_mult is missing"),
    (LDM4, {"beta_schedule": "cosine"}, "beta_schedule = 'cosine'"),
    (LDM4, {"parameterization": "mu"}, "allowed: eps, x0, v"),
    (LDM4, {"first_stage_config": None}, "first_stage_config"),
])  # fmt: skip
def test_configurations_that_mean_something_else_are_refused(
    plain: Weights, tmp_path: Path, unet: dict, model: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, plain.state, config_file(tmp_path / "ldm.yaml", unet, VQ_F4, **model))


def variant(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The plain configuration with its `model.params` changed."""
    values = yaml.safe_load(config_file(path, LDM4, VQ_F4).read_text())
    change(values["model"]["params"])
    path.write_text(yaml.safe_dump(values))
    return path


def test_other_ways_to_write_a_configuration_mean_the_same(tmp_path: Path) -> None:
    plain = read_original_config(config_file(tmp_path / "plain.yaml", LDM4, VQ_F4))
    blocks, size = LDM4["num_res_blocks"], LDM4["image_size"] if "image_size" in LDM4 else plain.unet["sample_size"]
    listed = variant(tmp_path / "list.yaml", lambda p: p["unet_config"]["params"].update(num_res_blocks=[blocks, blocks]))
    pointing = variant(
        tmp_path / "reference.yaml",
        lambda p: (p.update(image_size=size), p["unet_config"]["params"].update(image_size="${model.params.image_size}")),
    )
    (tmp_path / "utf16.yaml").write_bytes((tmp_path / "plain.yaml").read_text().encode("utf-16"))
    for path in (listed, pointing, tmp_path / "utf16.yaml"):
        assert read_original_config(path) == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["unet_config"]["params"].update(num_res_blocks=[1, 2]), r"num_res_blocks = \[1, 2\].*same number"),
        (lambda p: p.update(rescale_betas_zero_snr=True), r"rescale_betas_zero_snr = True is not supported"),
        (lambda p: p.update(scale_factor="${oc.env:SCALE}"), r"\$\{oc\.env:SCALE\} in the configuration cannot be resolved"),
        (lambda p: p.update(scale_factor="${model.params.scale_factor}"), r"cannot be resolved; write the value in its place"),
    ],
)
def test_what_would_change_the_numbers_or_points_nowhere_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_original_config(variant(tmp_path / "c.yaml", change))


def test_training_objects_beside_the_weights_are_inert_and_others_are_refused(plain: Weights, tmp_path: Path) -> None:
    ran = []

    class Callback:
        def __reduce__(self) -> tuple:
            return (Callback, ())

    module = types.ModuleType("pytorch_lightning.callbacks")
    module.Callback = Callback
    Callback.__module__, Callback.__qualname__ = "pytorch_lightning.callbacks", "Callback"
    sys.modules |= {"pytorch_lightning": types.ModuleType("pytorch_lightning"), "pytorch_lightning.callbacks": module}
    try:
        Callback.__init__ = lambda self: ran.append(1)
        beside = Callback()
        ran.clear()
        convert(tmp_path / "lightning", plain.state, callbacks={"checkpoint": beside})
    finally:
        del sys.modules["pytorch_lightning"], sys.modules["pytorch_lightning.callbacks"]
    assert not ran
    with pytest.raises(ImportRefused, match=r"holds objects of builtins\.eval"):
        convert(tmp_path / "hostile", plain.state, payload=Hostile())
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "lightning" / "ldm.ckpt").read_bytes()[:5000])
    config = config_file(tmp_path / "ldm.yaml", LDM4, VQ_F4)
    for name, content in (("cut.ckpt", None), ("text.ckpt", b"no checkpoint"), ("bare.ckpt", pickle.dumps(Hostile()))):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImportRefused, match="cannot be"):
            import_generator(tmp_path / name, config, tmp_path / "generator", ImportSettings())
    with pytest.raises(ImportRefused, match="give an existing"):
        import_generator(tmp_path / "none.ckpt", config, tmp_path / "generator", ImportSettings())


class Hostile:
    def __reduce__(self) -> tuple:
        return (eval, ("1/0",))


def test_command_and_conditioning_encoder(plain: Weights, tmp_path: Path, shard_tar: Path) -> None:
    torch.save({"state_dict": plain.state}, tmp_path / "ldm.ckpt")
    config = config_file(tmp_path / "ldm.yaml", LDM4, VQ_F4, cond_stage_config={"params": {"normalize_ssl": False}})
    command = [
        "import-generator", str(tmp_path / "ldm.ckpt"), "--config", str(config), "--output", str(tmp_path / "generator"),
        "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, ["views", *command], catch_exceptions=False)
    printed = json.loads(result.output.strip().splitlines()[-1])
    assert (printed["matched"], printed["missing"], printed["unexpected"], printed["encoder"]) == (len(plain.state), 0, 0, None)
    assert loaded(tmp_path).projector.config["normalisation"] == "none"
    with pytest.raises(ValueError, match=r"no conditioning encoder.*--encoder"):
        load_generator(tmp_path / "generator", device=CPU)
    with pytest.raises(ValueError, match="width 16, the checkpoint was trained with width 48"):
        CliRunner().invoke(app, ["views", *command, "--encoder", ENCODER], catch_exceptions=False)
    fitting = ENCODER.replace('"embed_dim":16', f'"embed_dim":{ENCODER_DIM}')
    more = [
        "--encoder", fitting, "--settings", '{"encoder_image_size": 16, "null_condition": "zero_token"}', "--settings",
        "normalisation=l2",
    ]  # fmt: skip
    assert CliRunner().invoke(app, ["views", *command, *more], catch_exceptions=False).exit_code == 0
    generator = load_generator(tmp_path / "generator", device=CPU)
    assert generator.metadata.image_size == 32
    assert torch.equal(generator.pipeline.null_tokens(1), torch.zeros(1, 1, LDM4["context_dim"]))
