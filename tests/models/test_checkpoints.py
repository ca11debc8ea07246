"""`CrossViewMAE.load_checkpoint`: every layout it reads, and what it says about files that do not fit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cdgmae import CrossViewMAE, load_encoder
from cdgmae.models.encoders.checkpoint_files import CheckpointError
from cdgmae.models.encoders.checkpoints import encoder_part, write_encoder, write_model
from cdgmae.settings.encoder import ARCHITECTURES, VitSettings, parse_encoder

DIMENSIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 3}
DECODER = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
VIT = VitSettings(image_size=32, patch_size=8, embed_dim=192, depth=2, num_heads=3)


def model(**changed: Any) -> CrossViewMAE:
    return CrossViewMAE(**{**DIMENSIONS, **DECODER, **changed}).eval()


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def same(one: CrossViewMAE, other: CrossViewMAE, *, encoder_only: bool) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(first[key], second[key]) for key in (encoder_part(first) if encoder_only else first))


def write_layout(path: Path, layout: str, trained: CrossViewMAE) -> None:
    state, namespace = trained.state_dict(), argparse.Namespace(lr=1e-3, norm_pix_loss=True)
    encoder, head = encoder_part(state), {"head.mlp.0.weight": torch.zeros(4, 192), "head.last_layer.weight_g": torch.ones(4, 1)}
    if layout == "model.safetensors":
        write_model(path, state, {"version": "x"})
    elif layout == "encoder.safetensors":
        write_encoder(path, state, VIT, {"version": "x"})
    elif layout == "timm.safetensors":
        save_file({**encoder, "head.weight": torch.zeros(10, 192), "head.bias": torch.zeros(10)}, path)
    else:
        optimizer = torch.optim.AdamW(trained.parameters()).state_dict()
        contents: dict[str, Any] = {
            "cropmae.pth": {"model": state, "optimizer": optimizer, "epoch": 99, "scaler": {"scale": 65536.0}, "args": namespace},
            "compiled.pth": {"model": prefixed("module._orig_mod.", state), "args": namespace},
            "mae_encoder.pth": {"model": encoder},
            "mae_with_decoder.pth": {
                "model": {**encoder, "mask_token": torch.zeros(1, 1, 512), "decoder_blocks.0.attn.qkv.weight": torch.zeros(6, 2)}
            },
            "dino_backbone.pth": encoder,
            "dino_full.pth": {
                "student": prefixed("module.backbone.", {key: torch.zeros_like(tensor) for key, tensor in encoder.items()}),
                "teacher": prefixed("backbone.", encoder) | head, "optimizer": optimizer, "epoch": 800, "args": namespace,
            },
            "dino_student.pth": {"student": prefixed("module.backbone.", encoder) | prefixed("module.", head)},
            "timm.pth": {**encoder, "head.weight": torch.zeros(10, 192), "head.bias": torch.zeros(10)},
        }  # fmt: skip
        torch.save(contents[layout], path)


WHOLE = ("model.safetensors", "cropmae.pth", "compiled.pth")
ENCODERS = (
    "encoder.safetensors", "timm.safetensors", "mae_encoder.pth", "mae_with_decoder.pth", "dino_backbone.pth", "dino_full.pth",
    "dino_student.pth", "timm.pth",
)  # fmt: skip


@pytest.mark.parametrize("layout", WHOLE)
@pytest.mark.parametrize("encoder_only", [False, True])
def test_files_of_whole_models_load_whole_or_their_encoder(tmp_path: Path, layout: str, encoder_only: bool) -> None:
    trained, fresh = model(), model()
    decoder_before = fresh.decoder_pred.weight.clone()
    write_layout(tmp_path / layout, layout, trained)
    report = fresh.load_checkpoint(tmp_path / layout, encoder_only=encoder_only)
    assert report.fits
    assert same(trained, fresh, encoder_only=encoder_only)
    assert len(report.matched) + len(report.left_out) == len(trained.state_dict())
    assert bool(report.left_out) == encoder_only
    assert torch.equal(fresh.decoder_pred.weight, decoder_before) == encoder_only


@pytest.mark.parametrize("layout", ENCODERS)
@torch.no_grad()
def test_files_of_encoders_load_only_when_asked_for_the_encoder(tmp_path: Path, layout: str) -> None:
    trained, fresh = model(), model()
    before = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    write_layout(tmp_path / layout, layout, trained)
    with pytest.raises(CheckpointError, match=r"30 keys matched, missing \['decoder_blocks\.0.* and \d+ more.*encoder_only=True"):
        fresh.load_checkpoint(tmp_path / layout)
    assert all(torch.equal(before[key], tensor) for key, tensor in fresh.state_dict().items())
    report = fresh.load_checkpoint(str(tmp_path / layout), encoder_only=True)
    assert (len(report.matched), report.missing, report.unexpected) == (30, (), ())
    assert same(trained, fresh, encoder_only=True)
    images = torch.randn(1, 3, 32, 32)
    tokens = load_encoder(parse_encoder(str(tmp_path / layout)), device=torch.device("cpu")).tokens(images)
    torch.testing.assert_close(tokens, trained.encode(images), rtol=1e-4, atol=1e-5)


MISFITS = [
    ({"img_size": 64}, r"other shapes .*pos_embed \(1, 17, 192\) instead of \(1, 65, 192\).*build the model with img_size=32 and patch_size=8"),
    ({"depth": 3}, r"missing \['blocks\.2\.attn\.proj\.bias'.*Build the model with the file's dimensions"),
    ({"depth": 1}, r"unexpected \['blocks\.1\.attn\.proj\.bias'"),
    ({"embed_dim": 96}, r"other shapes \['blocks\.0\.attn\.proj\.bias \(192,\) instead of \(96,\)'"),
    ({"num_heads": 6}, r"was trained with num_heads = 3, the model has 6.*num_heads=3"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "message"), MISFITS, ids=[str(row[0]) for row in MISFITS])
def test_encoders_of_other_dimensions_are_refused_with_the_key_report(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    write_layout(tmp_path / "encoder.safetensors", "encoder.safetensors", model())
    with pytest.raises(CheckpointError, match=message):
        model(**changed).load_checkpoint(tmp_path / "encoder.safetensors", encoder_only=True)


def test_foreign_truncated_and_extended_files_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.bias": torch.zeros(10)}}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"0 keys matched, missing \['blocks.*unexpected \['conv1\.weight', 'fc\.bias'\]"):
        model().load_checkpoint(tmp_path / "resnet.pth", encoder_only=True)
    torch.save({**encoder_part(model().state_dict()), "reg_token": torch.zeros(1, 4, 192)}, tmp_path / "registers.pth")
    with pytest.raises(CheckpointError, match=r"unexpected \['reg_token'\]"):
        model().load_checkpoint(tmp_path / "registers.pth", encoder_only=True)
    with pytest.raises(CheckpointError, match=r"unexpected \['reg_token'\]"):
        load_encoder(parse_encoder(str(tmp_path / "registers.pth")), device=torch.device("cpu"))
    for layout in ("cropmae.pth", "model.safetensors"):
        write_layout(tmp_path / layout, layout, model())
        whole = (tmp_path / layout).read_bytes()
        (tmp_path / f"cut_{layout}").write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(CheckpointError, match="truncated or of another kind"):
            model().load_checkpoint(tmp_path / f"cut_{layout}")
    torch.save({"epoch": 3, "weights": 1.0}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match=r"holds no state dict.*found \['epoch', 'weights'\]"):
        model().load_checkpoint(tmp_path / "empty.pth")


@pytest.mark.parametrize(("name", "timm_name"), [("vits8", "vit_small_patch8_224"), ("vitb16", "vit_base_patch16_224")])
@torch.no_grad()
def test_timm_loads_other_encoders_strictly_with_identical_tokens(tmp_path: Path, name: str, timm_name: str) -> None:
    """The named architectures at depth 1."""
    dimensions = {**ARCHITECTURES[name], "depth": 1}
    trained = CrossViewMAE(**dimensions, decoder_depth=1).eval()
    write_encoder(tmp_path / "encoder.safetensors", trained.state_dict(), VitSettings(**dimensions), {})
    vit = timm.create_model(timm_name, num_classes=0, depth=1).eval()
    vit.load_state_dict(load_file(tmp_path / "encoder.safetensors"), strict=True)
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(vit.forward_features(images), trained.encode(images), rtol=1e-5, atol=1e-5)
