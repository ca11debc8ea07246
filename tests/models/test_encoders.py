"""Encoders: what training writes, timm and `load_encoder` read, with identical tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from cdgmae import CrossViewMAE, load_encoder
from cdgmae.models.encoders.checkpoint_files import CheckpointError
from cdgmae.models.encoders.checkpoint_layouts import read_weights
from cdgmae.models.encoders.checkpoints import encoder_part, write_encoder
from cdgmae.models.encoders.encoder_cost import EncoderCost, encoder_cost
from cdgmae.models.encoders.vit_encoders import timm_encoder
from cdgmae.models.positions import resize_positions, sincos_positions
from cdgmae.settings.encoder import VitSettings, parse_encoder

CPU = torch.device("cpu")
SMALL = VitSettings(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)


def small_model() -> CrossViewMAE:
    return CrossViewMAE(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
    )


@torch.no_grad()
def test_encoder_file_gives_the_tokens_of_the_trained_model(tmp_path: Path) -> None:
    model = small_model().eval()
    write_encoder(tmp_path / "encoder.safetensors", model.state_dict(), SMALL, {"version": "x"})
    encoder = load_encoder(parse_encoder(str(tmp_path / "encoder.safetensors")), device=CPU)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder.tokens(images), model.encode(images), rtol=1e-5, atol=1e-6)
    assert (encoder.patch_size, encoder.embed_dim) == (8, 24)


@torch.no_grad()
def test_timm_loads_the_written_encoder_strictly_with_identical_tokens(tmp_path: Path) -> None:
    model = CrossViewMAE().eval()
    write_encoder(tmp_path / "encoder.safetensors", model.state_dict(), VitSettings(), {})
    vit = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    vit.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=True)
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(vit.forward_features(images), model.encode(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_published_pth_with_an_argument_namespace_is_read_safely(tmp_path: Path) -> None:
    model = CrossViewMAE(img_size=32, embed_dim=192, depth=1, num_heads=3, decoder_depth=1).eval()
    torch.save({"model": model.state_dict(), "epoch": 3, "args": argparse.Namespace(lr=0.1)}, tmp_path / "checkpoint-99.pth")
    encoder = load_encoder(parse_encoder(str(tmp_path / "checkpoint-99.pth")), device=CPU)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(encoder.tokens(images), model.encode(images), rtol=1e-5, atol=1e-6)


class Foreign:
    """Something a checkpoint has no business holding."""


def test_unsafe_truncated_and_partial_files_are_refused(tmp_path: Path) -> None:
    torch.save({"model": Foreign()}, tmp_path / "unsafe.pth")
    with pytest.raises(CheckpointError, match=r"holds objects of .*Foreign, which are not loaded"):
        read_weights(tmp_path / "unsafe.pth")
    write_encoder(tmp_path / "whole.safetensors", small_model().state_dict(), SMALL, {})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors cannot be read"):
        load_encoder(parse_encoder(str(tmp_path / "cut.safetensors")), device=CPU)
    partial = {key: tensor for key, tensor in encoder_part(small_model().state_dict()).items() if "blocks.1.mlp" not in key}
    write_encoder(tmp_path / "partial.safetensors", partial, SMALL, {})
    with pytest.raises(CheckpointError, match=r"missing \['blocks\.1\.mlp"):
        load_encoder(parse_encoder(str(tmp_path / "partial.safetensors")), device=CPU)


def test_missing_file_and_unknown_name_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="no such file; make it with `snakemake --cores all results/"):
        load_encoder(parse_encoder("results/none/encoder.safetensors"), device=CPU)
    with pytest.raises(ValueError, match="is no file, and timm has no such model"):
        load_encoder(parse_encoder("vit_of_no_kind"), device=CPU)
    with pytest.raises(
        ValueError, match=r"/mine holds no config\.json and no model\.safetensors; give a folder that `cdgmae export hub` wrote"
    ):
        load_encoder(parse_encoder("local-dir:/nowhere/mine"), device=CPU)


@torch.no_grad()
def test_random_and_pixel_encoders_are_deterministic() -> None:
    reference = f"random:{SMALL.canonical_json()}"
    first, second = load_encoder(parse_encoder(reference), device=CPU), load_encoder(parse_encoder(reference), device=CPU)
    images = torch.randn(1, 3, 16, 40)
    torch.testing.assert_close(first.tokens(images), second.tokens(images), rtol=0, atol=0)
    assert first.digest == second.digest
    pixels = load_encoder(parse_encoder("pixels:8"), device=CPU).tokens(images)
    assert pixels.shape == (1, 1 + 2 * 5, 192)
    torch.testing.assert_close(pixels[0, 2, :8], images[0, 0, 0, 8:16])


def test_sides_that_are_no_multiple_of_the_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of the patch size 8"):
        load_encoder(parse_encoder("pixels:8"), device=CPU).tokens(torch.zeros(1, 3, 20, 16))


def test_positions_put_columns_first_and_leave_cls_at_zero() -> None:
    table = sincos_positions(8, 3)[0]
    assert torch.equal(table[0], torch.zeros(8))
    # token (row 0, column 1): first half encodes the column 1, second half the row 0 (sin 0 = 0, cos 0 = 1)
    torch.testing.assert_close(table[2], torch.tensor([0.84147098, 0.00999983, 0.54030231, 0.99995, 0, 0, 1, 1]))


def test_position_resizing_is_driven_by_the_scale_factor() -> None:
    table = sincos_positions(8, 4)
    resized = resize_positions(table, 6, 9)
    assert resized.shape == (1, 1 + 54, 8)
    assert torch.equal(resize_positions(table, 4, 4), table)
    by_size = torch.nn.functional.interpolate(
        table[:, 1:].reshape(1, 4, 4, 8).permute(0, 3, 1, 2), size=(6, 9), mode="bicubic", align_corners=False
    )
    assert (resized[0, 1:].T.reshape(8, 6, 9) - by_size[0]).abs().max() > 1e-4


def test_the_cost_of_an_encoder_is_counted_by_the_formula() -> None:
    width, depth, tokens = SMALL.embed_dim, SMALL.depth, 28**2 + 1
    products = (tokens - 1) * 3 * 8**2 * width + depth * (12 * tokens * width**2 + 2 * tokens**2 * width)
    cost = encoder_cost(load_encoder(parse_encoder(f"random:{SMALL.canonical_json()}"), device=CPU))
    assert (cost.patch_size, cost.gflops) == (8, pytest.approx(2 * products / 1e9))
    assert encoder_cost(load_encoder(parse_encoder("pixels:14"), device=CPU)) == EncoderCost(14, 0, 0.0)
    renormalised = timm_encoder(
        "vit_tiny_patch16_224", state=timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    )
    assert encoder_cost(renormalised).gflops == pytest.approx(2.5, abs=0.1)
