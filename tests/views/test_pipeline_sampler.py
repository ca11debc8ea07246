"""Any diffusers pipeline as a view source, with tiny random pipelines: what views depend on, frames as views, what is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("transformers", reason="pipelines need transformers: pip install 'cdgmae[pipelines]'")

from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImageVariationPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from cdgmae.cli import app
from cdgmae.runtime.interrupts import Interrupted
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.image_shards import OK, ImageShard
from cdgmae.views.sampling.pipeline_sampler import PipelineRecipe, PipelineSampler
from cdgmae.views.sampling.sample_shard import sample_shard
from cdgmae.views.sources.diffusers import PipelineViews
from tests.generators.conftest import image, write_shard

CPU = torch.device("cpu")
ON_CPU = RuntimeSettings(device="cpu")
KEYS = ("ant", "bee", "cat")


def image_encoder(side: int) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, projection_dim=8, num_hidden_layers=1, num_attention_heads=1, image_size=side, patch_size=side // 2
    ))  # fmt: skip


def feature_extractor() -> CLIPImageProcessor:
    return CLIPImageProcessor(crop_size={"height": 16, "width": 16}, size={"shortest_edge": 16})


@pytest.fixture(scope="session")
def variations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionImageVariationPipeline of 16-pixel images with random weights."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, cross_attention_dim=8, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("pipelines") / "variations"
    StableDiffusionImageVariationPipeline(
        vae=vae, image_encoder=image_encoder(16), unet=unet, scheduler=DDIMScheduler(clip_sample=False), safety_checker=None,
        feature_extractor=feature_extractor(), requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def image_to_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableVideoDiffusionPipeline of 32-pixel frames with random weights."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=4, cross_attention_dim=8, num_attention_heads=8,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"), projection_class_embeddings_input_dim=96,
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), addition_time_embed_dim=32,
    )  # fmt: skip
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
    )
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True,
        sigma_min=0.002, sigma_max=700.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("pipelines") / "video"
    StableVideoDiffusionPipeline(
        vae=vae, image_encoder=image_encoder(224), unet=unet, scheduler=scheduler, feature_extractor=feature_extractor()
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("reals") / "00000.tar", KEYS)


def variation_settings(folder: Path, **changes: object) -> PipelineViews:
    arguments = {"height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 2.0}
    values = {
        "pipeline": "StableDiffusionImageVariationPipeline",
        "path": str(folder),
        "image_size": 16,
        "num_views": 2,
        "jpeg_quality": 100,
    }
    return PipelineViews.from_plain({**values, "arguments": arguments, **changes})


def video_settings(folder: Path, **changes: object) -> PipelineViews:
    arguments = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2}
    values = {
        "pipeline": "StableVideoDiffusionPipeline",
        "path": str(folder),
        "image_size": 32,
        "num_views": 2,
        "frames_are_views": True,
        "jpeg_quality": 100,
    }
    return PipelineViews.from_plain({**values, "arguments": arguments, **changes})


def sample(settings: PipelineViews, tar: Path, output: Path, seed: int = 0) -> dict:
    work = output.with_suffix(".work")
    return sample_shard(settings, seed, tar, PipelineRecipe(settings), output, work, runtime=ON_CPU)


def pixels_of(tar: Path) -> dict[tuple[str, int], np.ndarray]:
    shard = ImageShard(tar)
    return {(row.key, row.view_index): np.asarray(Image.open(io.BytesIO(shard.read(row))), dtype=int) for row in shard.rows(OK)}


def direct(settings: PipelineViews, key: str, seeds: Sequence[int]) -> np.ndarray:
    sampler = PipelineRecipe(settings).open(CPU)
    conditions = sampler.conditions([Image.open(io.BytesIO(image(key))).convert("RGB")] * len(seeds))
    return sampler.views(conditions, seeds, lambda: None).pixels_BVHW3


def test_views_follow_the_contract_and_depend_on_seed_key_and_index_alone(variations: Path, reals: Path, tmp_path: Path) -> None:
    result = sample(variation_settings(variations), reals, tmp_path / "one.tar")
    assert (result["views"], result["bad"]) == (6, 0)
    rows = list(ImageShard(tmp_path / "one.tar").rows())
    assert [(row.key, row.view_index) for row in rows] == [(key, k) for key in KEYS for k in (1, 2)]
    recipe = PipelineRecipe(variation_settings(variations))
    assert {(row.generator, row.sampler, row.steps, row.guidance, row.precision, row.width) for row in rows} == {
        (recipe.provenance.generator, "StableDiffusionImageVariationPipeline", 2, 2.0, "fp32", 16)
    }
    one = pixels_of(tmp_path / "one.tar")
    assert len({view.tobytes() for view in one.values()}) == len(one)
    expected = direct(variation_settings(variations), "bee", [row.seed or 0 for row in rows if row.key == "bee"])
    assert np.abs(one["bee", 2] - expected[1, 0]).mean() < 2  # JPEG lies between

    sample(
        variation_settings(variations, batch_size=4),
        write_shard(tmp_path / "half" / "00000.tar", KEYS[1:]),
        tmp_path / "four.tar",
    )
    four = pixels_of(tmp_path / "four.tar")
    assert max(np.abs(four[view] - one[view]).max() for view in four) <= 8
    sample(variation_settings(variations), reals, tmp_path / "other.tar", seed=1)
    other = pixels_of(tmp_path / "other.tar")
    assert all(np.abs(other[view] - one[view]).max() > 8 for view in one)


def test_frames_of_one_call_become_the_views(image_to_video: Path, reals: Path, tmp_path: Path) -> None:
    settings = video_settings(image_to_video)
    result = sample(settings, reals, tmp_path / "video.tar")
    assert (result["views"], result["bad"]) == (6, 0)
    rows = list(ImageShard(tmp_path / "video.tar").rows())
    seeds = {row.key: row.seed for row in rows}
    assert all(row.seed == seeds[row.key] for row in rows)  # one call per bag
    views, sampler = pixels_of(tmp_path / "video.tar"), PipelineRecipe(settings).open(CPU)
    square = sampler.conditions([Image.open(io.BytesIO(image("cat"))).convert("RGB")])[0]
    frames = sampler.pipeline(
        Image.fromarray(square.numpy()), generator=torch.Generator().manual_seed(seeds["cat"]), output_type="np", **settings.arguments
    ).frames[0]  # fmt: skip
    for view_index, number in ((1, 2), (2, 4)):  # evenly over frames 1 to 4
        assert np.abs(views["cat", view_index] - np.rint(frames[number] * 255)).mean() < 2


def test_frames_and_images_are_not_confused(variations: Path, image_to_video: Path) -> None:
    with pytest.raises(ValueError, match=r"gives no frames; set views.sources.NAME.frames_are_views = False"):
        direct(variation_settings(variations, frames_are_views=True), "ant", [1])
    with pytest.raises(ValueError, match=r"gives no images; set .*frames_are_views = True"):
        direct(video_settings(image_to_video, frames_are_views=False), "ant", [1])
    with pytest.raises(ValueError, match="gives 4 frames after the first one, num_views = 5"):
        direct(video_settings(image_to_video, num_views=5), "ant", [1])


def test_images_that_are_not_finite_end_as_bad_rows(variations: Path, reals: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(variations, broken)
    pipeline = StableDiffusionImageVariationPipeline.from_pretrained(broken)
    pipeline.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    pipeline.save_pretrained(broken)
    with pytest.raises(ValueError, match=r"6 of 6 views are bad.*image is not finite, also from a second seed"):
        sample(variation_settings(broken), reals, tmp_path / "views.tar")
    assert not (tmp_path / "views.tar").exists()


def test_a_stop_request_ends_a_call_between_its_steps(variations: Path) -> None:
    sampler = PipelineRecipe(variation_settings(variations)).open(CPU)
    assert isinstance(sampler, PipelineSampler)

    def stop() -> None:
        raise Interrupted("now")

    with pytest.raises(Interrupted, match="now"):
        sampler.views(sampler.conditions([Image.new("RGB", (20, 16), "red")]), [1], stop)


def test_wrong_names_arguments_and_folders_are_refused(variations: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"is no pipeline class of diffusers.*did you mean 'StableDiffusionImageVariationPipeline'"
    ):
        PipelineRecipe(variation_settings(variations, pipeline="StableDiffusionImageVariationsPipeline"))
    with pytest.raises(ValueError, match="'UNet2DConditionModel' is no pipeline class"):
        PipelineRecipe(variation_settings(variations, pipeline="UNet2DConditionModel"))
    with pytest.raises(ValueError, match="takes no argument steps; its arguments: image, height, width"):
        PipelineRecipe(variation_settings(variations, arguments={"steps": 3}))
    with pytest.raises(ValueError, match="takes no argument photo"):
        PipelineRecipe(variation_settings(variations, image_argument="photo"))
    with pytest.raises(ValueError, match=r"arguments\.generator is set by the seeds"):
        variation_settings(variations, arguments={"generator": 1})
    with pytest.raises(ValueError, match=r"either `path` .* or `hub`"):
        variation_settings(variations, hub="owner/name")
    with pytest.raises(ValueError, match="holds no diffusers pipeline"):
        PipelineRecipe(variation_settings(tmp_path)).open(CPU)


def test_only_safetensors_and_no_foreign_code(variations: Path, tmp_path: Path) -> None:
    pickled, foreign = tmp_path / "pickled", tmp_path / "foreign"
    shutil.copytree(variations, pickled)
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({}, weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"cannot be loaded as StableDiffusionImageVariationPipeline.*safetensors"):
        PipelineRecipe(variation_settings(pickled)).open(CPU)
    shutil.copytree(variations, foreign)
    index = json.loads((foreign / "model_index.json").read_text())
    (foreign / "model_index.json").write_text(json.dumps({**index, "unet": ["subprocess", "Popen"]}))
    with pytest.raises(ValueError, match=r"brings code of its own \(unet\)"):
        PipelineRecipe(variation_settings(foreign)).open(CPU)
    (foreign / "model_index.json").write_text(json.dumps(index))
    (foreign / "unet" / "model_index.json").write_text(json.dumps({"vae": ["antigravity", "X"]}))
    with pytest.raises(ValueError, match=r"brings code of its own \(unet/model_index\.json\)"):
        PipelineRecipe(variation_settings(foreign)).open(CPU)
    (foreign / "unet" / "model_index.json").unlink()
    (foreign / "unet" / "own.py").write_text("")
    with pytest.raises(ValueError, match=r"brings code of its own \(\.py files\)"):
        PipelineRecipe(variation_settings(foreign)).open(CPU)


def test_command_line(variations: Path, reals: Path, tmp_path: Path) -> None:
    settings = json.dumps({"kind": "diffusers", **variation_settings(variations).model_dump(mode="json", exclude={"batch_size"})})
    arguments = ["make", "--settings", settings, "--shard", reals, "--output", tmp_path / "v" / "00000.tar", "--batch-size", 3,
                 "--device", "cpu", "--json"]  # fmt: skip
    result = CliRunner().invoke(app, ["views", *(str(argument) for argument in arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.strip().splitlines()[-1])["views"] == 6
