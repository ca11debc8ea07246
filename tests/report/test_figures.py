"""Figures of encoders and models: attention against its formula, features as colours, reconstructions, strips, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.models.cross_view_mae import CrossViewMAE
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.models.normalisation import normalise, squares
from cdgmae.report.figures.attention_maps import attention_sheet, cls_attention, feature_colours
from cdgmae.report.figures.chosen_images import read_images
from cdgmae.report.figures.reconstructions import load_model, reconstruction_sheet
from cdgmae.report.pages.encoders.encoder_looks import draw_looks
from cdgmae.settings.encoder import EncoderSettings, VitSettings, parse_encoder
from cdgmae.settings.pretrain import PretrainRunSettings
from tests.consistency.drawn_bags import bags, draw_image, write_shard

CPU = torch.device("cpu")
SIDE, PATCH, HEADS = 48, 8, 3
TINY = VitSettings(image_size=SIDE, patch_size=PATCH, embed_dim=24, depth=2, num_heads=HEADS)
IMAGES = [draw_image(seed) for seed in range(3)]


def literal_attention(encoder: Any, images_BCHW: torch.Tensor) -> np.ndarray[Any, Any]:
    """softmax(q k / sqrt(d)) of the CLS token in the last block, image by image and head by head."""
    vit, given = encoder.vit, []
    hook = vit.blocks[-1].norm1.register_forward_hook(lambda _module, _given, made: given.append(made))
    encoder.tokens(images_BCHW)
    hook.remove()
    maps = np.zeros((len(images_BCHW), HEADS, SIDE // PATCH, SIDE // PATCH))
    width = TINY.embed_dim // HEADS
    for image, tokens_TD in enumerate(given[0].double()):
        projected = tokens_TD @ vit.blocks[-1].attn.qkv.weight.double().T + vit.blocks[-1].attn.qkv.bias.double()
        queries, keys = projected[:, : TINY.embed_dim], projected[:, TINY.embed_dim : 2 * TINY.embed_dim]
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            weights = np.exp([float(queries[0, part] @ key[part]) / width**0.5 for key in keys])
            maps[image, head] = (weights / weights.sum())[1:].reshape(SIDE // PATCH, SIDE // PATCH)
    return maps


def test_attention_is_that_of_the_cls_token_in_the_last_block() -> None:
    encoder = load_encoder(EncoderSettings(random=TINY), device=CPU)
    images_BCHW = normalise(squares(IMAGES, SIDE))
    before = encoder.tokens(images_BCHW)
    found = cls_attention(encoder, images_BCHW)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), literal_attention(encoder, images_BCHW), atol=1e-6)
    assert torch.equal(encoder.tokens(images_BCHW), before)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_prefix_tokens_of_other_networks_are_left_out(name: str) -> None:
    encoder = load_encoder(parse_encoder(f"random:{name}"), device=CPU)
    side = 4 * encoder.patch_size
    found = cls_attention(encoder, normalise(squares(IMAGES[:1], side)))
    assert found is not None
    assert found.shape[2:] == (4, 4)
    assert 0 < float(found.sum(dim=(2, 3)).max()) < 1


def test_an_encoder_without_attention_shows_its_features_alone() -> None:
    pixels = load_encoder(parse_encoder("pixels:8"), device=CPU)
    assert cls_attention(pixels, normalise(squares(IMAGES, SIDE))) is None
    alone, whole = (
        attention_sheet(load_encoder(EncoderSettings(**which), device=CPU), IMAGES) for which in ({"pixels": 8}, {"random": TINY})
    )
    columns = [round(sheet.width / 146) for sheet in (alone, whole)]
    assert columns == [2, 2 + HEADS + 1]
    assert alone.height == whole.height


def test_colours_are_the_principal_components_of_all_features() -> None:
    encoder = load_encoder(EncoderSettings(random=TINY), device=CPU)
    images_BCHW = normalise(squares(IMAGES, SIDE))
    features = encoder.tokens(images_BCHW)[:, 1:].reshape(-1, TINY.embed_dim).double().numpy()
    features -= features.mean(axis=0)
    _, _, directions = np.linalg.svd(features, full_matrices=False)
    colours = feature_colours(encoder, images_BCHW)
    assert colours.shape == (3, 6, 6, 3)
    for channel in range(3):
        component = features @ directions[channel]
        shares = 255 * (component - component.min()) / np.ptp(component)
        shown = colours[..., channel].ravel().astype(float)
        assert min(np.abs(shown - shares).max(), np.abs(shown - (255 - shares)).max()) < 0.51


def test_images_come_from_files_folders_and_shards(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        draw_image(number).save(folder / f"{number}.png")
    shard = write_shard(tmp_path / "00000.tar", {**bags(4, 1)[0], ("bad", 0): "empty file"})
    assert list(read_images([folder], 3)) == ["0.png", "2.png", "4.png"]
    assert list(read_images([shard, folder / "1.png"], 9)) == ["k0", "k1", "k2", "k3", "1.png"]
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.txt: .*name image files"):
        read_images([folder], 99)
    with pytest.raises(ValueError, match="gone: no such file or folder"):
        read_images([tmp_path / "gone"], 1)


def test_reconstructions_show_crops_prediction_and_the_named_true_mean_variant(tmp_path: Path) -> None:
    settings = PretrainRunSettings(
        image_size=SIDE, patch_size=PATCH, embed_dim=24, depth=2, num_heads=HEADS, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2,
    )  # fmt: skip
    run = tmp_path / "seed0"
    run.mkdir()
    save_file(CrossViewMAE.from_settings(settings).state_dict(), run / "model.safetensors")
    (run / "config.json").write_text(json.dumps({"settings": settings.model_dump(mode="json")}))
    model, trained = load_model(run, PretrainRunSettings())
    assert trained == settings
    images = {f"{number}.png": image for number, image in enumerate(IMAGES)}
    first, again, other = (reconstruction_sheet(model, trained, images, seed) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert (round(first.width / 146), round((first.height - 18) / 146)) == (
        5,
        3,
    )  # anchor, as seen, prediction, true mean and sd, target
    for name, image in images.items():
        image.save(tmp_path / name)
    output = tmp_path / "sheet.png"
    made = CliRunner().invoke(
        app,
        [
            "report",
            "reconstructions",
            *(str(tmp_path / name) for name in images),
            "--model",
            str(run),
            "--output",
            str(output),
            "--json",
        ],
    )
    assert json.loads(made.stdout.splitlines()[-1]) == {"output": str(output), "images": list(images)}
    assert np.array_equal(np.asarray(Image.open(output)), np.asarray(first))


def test_commands_write_attention_maps_and_strips(tmp_path: Path) -> None:
    draw_image(1).save(tmp_path / "one.png")
    sheet, encoder = tmp_path / "attention.jpg", "random:" + TINY.canonical_json()
    command = ["report", "attention", str(tmp_path / "one.png"), "--encoder", encoder, "--output", str(sheet)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert Image.open(sheet).format == "JPEG"
    for name, width in (("random", 90), ("cdg", 120)):
        folder = tmp_path / "propagation" / name / "strips" / "davis"
        folder.mkdir(parents=True)
        Image.new("RGB", (width, 40), "red").save(folder / "dog.jpg")
    files = sorted(map(str, tmp_path.glob("propagation/*/strips/davis/dog.jpg")))
    strips = ["report", "strips", *files, "--output", str(tmp_path / "strips.png")]
    made = CliRunner().invoke(app, [*strips, "--json"], catch_exceptions=False)
    assert json.loads(made.stdout.splitlines()[-1])["strips"] == 2
    assert Image.open(tmp_path / "strips.png").size == (120, 2 * (40 + 18))
    with pytest.raises(ValueError, match=r"no strip .*cat\.jpg"):
        CliRunner().invoke(app, ["report", "strips", files[0].replace("dog", "cat")], catch_exceptions=False)
    with pytest.raises(ValueError, match=r"the ending must be one of \.png, \.jpg"):
        CliRunner().invoke(app, [*strips[:-1], "x.webp"], catch_exceptions=False)


def test_the_report_draws_what_every_encoder_looks_at_or_says_why_not(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "00000.tar", bags(4, 1)[0])
    encoders = {"random": EncoderSettings(random=TINY), "gone": EncoderSettings(checkpoint="gone.safetensors")}
    good, bad = draw_looks(encoders, shard, tmp_path / "encoders")
    assert good.file is not None
    assert (tmp_path / "encoders" / good.file).is_file()
    assert bad.file is None
    assert "gone.safetensors" in str(bad.problem)
    assert draw_looks(encoders, tmp_path / "none.tar", tmp_path / "encoders") == []
