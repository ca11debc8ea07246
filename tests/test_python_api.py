"""The Python interface: its page's examples as they stand there, the same results as the stages, and errors that say what to do."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image

import cdgmae
from cdgmae.consistency.score_tables import METRICS
from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.models.normalisation import pixels_to_tensor
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.settings.base import Settings
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.protocol import ClipProtocol
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.settings.views import SamplingSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.image_shards import ImageShard
from cdgmae.storage.media.images import encode_jpeg
from cdgmae.views.sampling.generator_sampler import GeneratorRecipe
from cdgmae.views.sampling.sample_shard import sample_shard
from tests.generators.conftest import KEYS, generator_dir, shard_tar
from tests.propagation.drawn_clips import write_davis

__all__ = ["generator_dir", "shard_tar"]

PAGE = Path(__file__).parents[1] / "docs/python_api.md"
TINY_VIT = 'random:{"image_size":32,"patch_size":8,"embed_dim":24,"depth":2,"num_heads":2}'
ON_CPU = RuntimeSettings(device="cpu")


def test_the_examples_of_the_page_run_and_show_what_it_says(
    generator_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results/generators").mkdir(parents=True)
    Path("results/generators/s_ldm").symlink_to(generator_dir)
    seen: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), seen)
    assert all(name in PAGE.read_text() and name in seen for name in cdgmae.__all__)
    same, mirrored = seen["scores"].to_dict("records")
    assert list(same.values()) == pytest.approx([1, 1, 1, 1], abs=1e-5)
    assert mirrored["nps"] > mirrored["ls"]
    assert seen["tokens"].shape == (1, 1 + 6 * 8, 192)
    masks = seen["masks"]
    assert (masks.dtype, masks.shape) == (torch.uint8, (5, 288, 320))
    assert masks[0].equal(seen["mask"])
    assert 0.7 < int(masks[4].sum()) / int(masks[0].sum()) < 1.3
    moved = torch.nonzero(masks[4])[:, 1].float().mean() - torch.nonzero(masks[0])[:, 1].float().mean()
    assert moved == pytest.approx(-16, abs=6)  # the camera went 4 x 4 pixels to the right
    assert [view.size for view in seen["views"]] == [(16, 16)] * 2
    assert seen["index"].loc[0, ["key", "view_index", "width", "height"]].tolist() == ["cat", 0, *seen["cat"].size]
    assert seen["real"].size == seen["cat"].size
    stored = [
        np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in zip(seen["generated"], seen["views"], strict=True)
    ]
    assert max(stored) < 4  # JPEG lies between
    assert torch.isfinite(seen["output"].loss)


def test_importing_the_package_loads_nothing_heavy_and_names_what_it_offers() -> None:
    code = "import sys, cdgmae; print(sorted({'torch', 'numpy', 'pandas', 'pydantic'} & set(sys.modules)), *dir(cdgmae))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, *names = done.stdout.split()
    assert heavy == "[]"
    assert names == sorted([*cdgmae.__all__, "__version__"])
    with pytest.raises(AttributeError, match="it offers Bags, CrossViewMAE"):
        cdgmae.score_pair  # noqa: B018
    assert (Path(cdgmae.__file__).parent / "py.typed").is_file()
    for_checkers = re.findall(r"^    from (cdgmae\.\S+) import (\w+)$", Path(cdgmae.__file__).read_text(), flags=re.MULTILINE)
    assert sorted(name for _, name in for_checkers) == sorted(cdgmae.__all__)
    assert all(getattr(cdgmae, name) is getattr(import_module(module), name) for module, name in for_checkers)


def test_scores_are_those_of_the_stage(shard_tar: Path, generator_dir: Path, tmp_path: Path) -> None:
    settings = SamplingSettings(num_views=2, num_inference_steps=3, guidance_scale=2.0, batch_size=4)
    sample_shard(settings, 0, shard_tar, GeneratorRecipe(generator_dir, settings), tmp_path / "00000.tar", tmp_path / "work")
    scored = tmp_path / "scores/00000.parquet"
    score_shard(
        ScoringSettings(image_size=16),
        shard_tar,
        tmp_path / "00000.tar",
        parse_encoder(TINY_VIT),
        scored,
        source="s",
        runtime=ON_CPU,
    )
    table = pq.read_table(scored).to_pandas()
    bags, encoder = Bags([shard_tar], tmp_path).usable(), cdgmae.load_encoder(TINY_VIT)
    for key in KEYS:
        real, *views = bags.images(key)
        expected = table.loc[table["key"] == key, list(METRICS)].to_numpy()
        given = torch.stack([pixels_to_tensor([view])[0] for view in views])
        for images_b in (views, given, list((given * 255).byte())):
            np.testing.assert_allclose(cdgmae.score_pairs(real, images_b, encoder, image_size=16), expected, atol=1e-5)
        both = cdgmae.score_pairs([real] * 2, views, encoder, image_size=16, batch_size=1)
        np.testing.assert_allclose(both, expected, atol=1e-5)


def test_views_are_those_of_the_stage(shard_tar: Path, generator_dir: Path, tmp_path: Path) -> None:
    settings = SamplingSettings(num_views=3, num_inference_steps=3, guidance_scale=2.0, batch_size=5)
    sample_shard(settings, 7, shard_tar, GeneratorRecipe(generator_dir, settings), tmp_path / "00000.tar", tmp_path / "work")
    images, shard = Bags([shard_tar]).usable(), ImageShard(tmp_path / "00000.tar")
    real = [images.image(row) for row in range(len(images))]
    drawn = cdgmae.sample_views(
        real, cdgmae.load_generator(generator_dir), keys=images.keys, seed=7, num_views=3, num_inference_steps=3, guidance_scale=2.0,
        batch_size=5,
    )  # fmt: skip
    stored = [shard.read(row) for row in shard.rows()]
    assert stored == [encode_jpeg(view, settings.jpeg_quality) for views in drawn for view in views]


def test_masks_are_those_of_the_stage(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "clips", ("one",), frames=6)
    protocol = DavisProtocol(root=str(root), input_size=(64, 96), queue_length=3, radius=4.0)
    run_propagation(
        protocol, parse_encoder(TINY_VIT), tmp_path / "davis.parquet", runtime=ON_CPU, save_predictions=tmp_path / "predicted"
    )
    expected = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "predicted/masks/one").iterdir())]
    frames = [Image.open(path) for path in sorted((root / "JPEGImages/480p/one").iterdir())]
    mask = Image.open(root / "Annotations/480p/one/00000.png")
    encoder = cdgmae.load_encoder(TINY_VIT)
    found = cdgmae.propagate(frames, mask, encoder, queue_length=3, radius=4.0)  # the frames' own size is the input size
    np.testing.assert_array_equal(found[0], mask)
    np.testing.assert_array_equal(found[1:], expected[1:])
    as_tensors = cdgmae.propagate(pixels_to_tensor(frames), torch.from_numpy(np.array(mask)), encoder, queue_length=3, radius=4.0)
    assert (as_tensors != found).float().mean() < 0.01  # without a palette, ties are decided by number
    marked = [Image.fromarray(np.array(mask) > 0), torch.from_numpy(np.array(mask) > 0)]
    of_image, of_tensor = (cdgmae.propagate(frames, one, encoder, queue_length=np.int64(3), radius=4.0) for one in marked)
    assert marked[0].mode == "1"
    assert of_image.equal(of_tensor)
    assert of_image.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("function", "settings", "number"), [(cdgmae.propagate, ClipProtocol, 5), (cdgmae.sample_views, SamplingSettings, 6)]
)
def test_defaults_are_those_of_the_configuration(function: Any, settings: type[Settings], number: int) -> None:
    fields = {name: field.default for name, field in settings.model_fields.items() if name != "input_size"}
    defaults = {name: field.default for name, field in inspect.signature(function).parameters.items() if name in fields}
    assert len(defaults) == number
    assert defaults == {name: fields[name] for name in defaults}


def test_a_model_of_timm_is_copied_and_normalised_as_it_was_trained() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, pretrained_cfg_overlay={"mean": (0.5,) * 3, "std": (0.5,) * 3}
    )
    images = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    tokens = cdgmae.load_encoder(model).tokens((images - mean) / std)
    with torch.no_grad():
        torch.testing.assert_close(tokens, model.eval().forward_features((images - 0.5) / 0.5), atol=1e-4, rtol=1e-4)
    assert all(parameter.requires_grad for parameter in model.blocks.parameters())
    with pytest.raises(ValueError, match="'ResNet' has no patch tokens"):
        cdgmae.load_encoder(timm.create_model("resnet18", num_classes=0))


IMAGE = Image.new("RGB", (32, 32), "red")
PIXELS = cdgmae.load_encoder("pixels:8")


def small_model(**changed: Any) -> cdgmae.CrossViewMAE:
    return cdgmae.CrossViewMAE(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, **changed)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cdgmae.score_pairs(torch.randn(3, 8, 8), IMAGE, PIXELS), r"images_a: torch.float32 values from -.* Undo a normalisation"),
        (lambda: cdgmae.score_pairs(torch.rand(8, 8, 3), IMAGE, PIXELS), r"images_a: a tensor of shape \(8, 8, 3\); allowed"),
        (lambda: cdgmae.score_pairs(IMAGE, [np.zeros((8, 8, 3))], PIXELS), r"images_b: found ndarray.*PIL.Image.fromarray"),
        (lambda: cdgmae.score_pairs([IMAGE] * 2, [IMAGE] * 3, PIXELS), "2 images_a and 3 images_b"),
        (lambda: cdgmae.score_pairs(IMAGE, [], PIXELS), "images_b: no image given"),
        (lambda: cdgmae.score_pairs(None, IMAGE, PIXELS), "images_a: found NoneType; allowed are"),
        (lambda: cdgmae.score_pairs("cat.jpg", IMAGE, PIXELS), "images_a: found str; allowed are"),
        (lambda: cdgmae.score_pairs(Image.new("RGB", (0, 8)), IMAGE, PIXELS), "images_a: found an image without pixels"),
        (lambda: cdgmae.score_pairs(torch.zeros(3, 8, 8, dtype=torch.complex64), IMAGE, PIXELS), "images_a: a tensor of torch.complex64"),
        (lambda: cdgmae.score_pairs(IMAGE, IMAGE, "pixels:8"), r"encoder: found str; give what load_encoder returns"),
        (lambda: cdgmae.score_pairs(IMAGE, IMAGE, PIXELS, image_size=224.5), "score_pairs: image_size = 224.5: input should be a valid int"),
        (lambda: cdgmae.score_pairs(IMAGE, IMAGE, PIXELS, batch_size=0), "score_pairs: batch_size = 0: input should be greater"),
        (lambda: cdgmae.score_pairs(IMAGE, IMAGE, PIXELS, image_size=30), "multiples of the patch size 8"),
        (lambda: cdgmae.propagate([IMAGE], Image.new("L", (32, 16)), PIXELS), "the mask has 32x16 pixels, frame 0 has 32x32"),
        (lambda: cdgmae.propagate([IMAGE, IMAGE.resize((8, 8))], IMAGE.convert("L"), PIXELS), "frame 1 has 8x8 pixels"),
        (lambda: cdgmae.propagate([IMAGE], IMAGE, PIXELS), "the mask holds RGB pixels"),
        (lambda: cdgmae.propagate([IMAGE], torch.zeros(32, 32), PIXELS), r"the mask is torch.float32 of shape \(32, 32\)"),
        (lambda: cdgmae.propagate([IMAGE], torch.full((32, 32), 256), PIXELS), "ids from 256 to 256; allowed: 0..255"),
        (lambda: cdgmae.propagate([IMAGE], IMAGE.convert("L"), PIXELS, top_k=0), "propagate: top_k = 0: input should be greater"),
        (lambda: cdgmae.propagate([IMAGE], IMAGE.convert("L"), PIXELS, input_size=0), "input_size = 0: sides must be at least 8"),
        (lambda: cdgmae.propagate([IMAGE], IMAGE.convert("L"), None), "encoder: found NoneType"),
        (lambda: cdgmae.propagate([IMAGE], IMAGE.convert("L"), PIXELS, input_size=(30, 32)), "not a multiple of the encoder's patch"),
        (lambda: cdgmae.pack_images({"a/b": IMAGE}, "x"), "key 'a/b': letters.*use 'a_b'"),
        (lambda: cdgmae.pack_images({"a": [IMAGE] * 2}, "x"), "views are packed with first_view=1"),
        (lambda: cdgmae.pack_images({}, "x"), "at least one image"),
        (lambda: cdgmae.pack_images([IMAGE], "x"), "list of images, .* give a dict of keys and images"),
        (lambda: cdgmae.pack_images({3: IMAGE}, "x"), "key 3: letters.*use '3'"),
        (lambda: cdgmae.pack_images({"a": IMAGE}, "x", resize="crop"), "pack_images: resize = 'crop': input should be"),
        (lambda: cdgmae.Bags("x"), "x holds no .tar shards"),
        (lambda: cdgmae.load_generator("x"), "x is no generator folder"),
        (lambda: cdgmae.sample_views(IMAGE, "x"), "generator: found str; give what load_generator returns"),
        (lambda: cdgmae.load_encoder("none.pth"), "no such file"),
        (lambda: cdgmae.load_encoder(Path("none.pth")), "no such file"),
        (lambda: cdgmae.load_encoder(8), "encoder: found int; give a file, a timm name"),
        (lambda: cdgmae.load_encoder("pixels:x"), "behind the colon stands the side of a patch"),
        (lambda: cdgmae.load_encoder("vit_gigantic"), "is no file, and timm has no such model.*list_models"),
        (lambda: cdgmae.load_encoder("pixels:8", device="gpu"), "device 'gpu' cannot be used .*; give cpu, cuda or cuda:N"),
        (lambda: PIXELS.tokens(torch.zeros(3, 32, 32)), r"torch.float32 of shape \(3, 32, 32\); an encoder takes"),
        (lambda: PIXELS.tokens(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), "torch.uint8 of shape .* an encoder takes"),
        (lambda: cdgmae.CrossViewMAE(img_size=30, patch_size=8), "CrossViewMAE: image_size = 30 is not a multiple of patch_size = 8"),
        (lambda: cdgmae.CrossViewMAE(decoder_num_heads=5), "CrossViewMAE's decoder: embed_dim = 256 is not a multiple of num_heads = 5"),
        (lambda: small_model()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), "images: found torch.uint8; give normalised images"),
        (lambda: small_model(target_masking_ratio=2.0)(torch.zeros(1, 3, 32, 32)), "target_masking_ratio = 2.0; allowed: 0..1"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong_and_what_is_allowed(
    call: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call()
    assert not list(tmp_path.rglob("*.tar"))


def test_a_generator_draws_in_the_precision_it_was_made_ready_for(generator_dir: Path) -> None:
    generator = cdgmae.load_generator(generator_dir)
    with pytest.raises(ValueError, match="1 images and 2 keys"):
        cdgmae.sample_views(IMAGE, generator, keys=["a", "b"])
    with pytest.raises(ValueError, match="sample_views: guidance_scale = -1"):
        cdgmae.sample_views(IMAGE, generator, guidance_scale=-1.0)
    cdgmae.sample_views(IMAGE, generator, num_views=1, num_inference_steps=2, precision="bf16")
    with pytest.raises(ValueError, match=r"made ready for torch\.bfloat16; load it again for precision fp32"):
        cdgmae.sample_views(IMAGE, generator)


def test_packed_images_are_resized_as_the_stage_resizes(tmp_path: Path) -> None:
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8))
    index = cdgmae.pack_images({"wide": wide}, tmp_path, resize="center_crop", image_size=24)
    assert index[["width", "height", "extension"]].to_numpy().tolist() == [[24, 24, "jpg"]]
    stored = Image.open(io.BytesIO(next((tmp_path).glob("*.tar")).read_bytes()[index.offset[0] :][: index.length[0]]))
    expected = np.asarray(wide.resize((48, 24), Image.Resampling.BICUBIC).crop((12, 0, 36, 24)), int)
    assert np.abs(np.asarray(stored, int) - expected).mean() < 6
