"""Encoders beyond plain ViTs with one CLS token: registers, none at all, rotary positions, weights of a file, video."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.models.encoders.checkpoint_files import CheckpointError
from cdgmae.models.encoders.video_checkpoints import sinusoid_positions
from cdgmae.models.encoders.vit_encoders import RenormalisedEncoder, VitEncoder, timm_encoder
from cdgmae.models.normalisation import normalise
from cdgmae.models.onednn import freeze_to_onednn, products
from cdgmae.models.vit import build_vit
from cdgmae.settings.encoder import EncoderSettings, VitSettings, parse_encoder

CPU = torch.device("cpu")
SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
VARIANTS = {
    "plain": {},
    "registers": {
        "reg_tokens": 4,
        "no_embed_class": True,
        "init_values": 0.1,
        "mlp_layer": SwiGLUPacked,
        "act_layer": torch.nn.SiLU,
    },
    "registers_with_positions": {"reg_tokens": 2},
    "no_cls": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "averaging": {"class_token": False, "reg_tokens": 3, "global_pool": "avg"},
    "norm_before": {"pre_norm": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_vit_variants_give_timm_s_tokens_without_registers(variant: str) -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(**SIZES, **VARIANTS[variant]).eval()
    if vit.reg_token is not None:
        torch.nn.init.normal_(vit.reg_token)
    images = torch.randn(2, 3, 32, 32)
    expected = vit.forward_features(images)
    if variant == "averaging":
        expected = vit.fc_norm(expected)
    patches = expected[:, vit.num_prefix_tokens :]
    tokens = VitEncoder(vit).tokens(images)
    torch.testing.assert_close(tokens[:, 1:], patches, rtol=1e-5, atol=1e-5)
    cls_token = patches.mean(dim=1) if vit.cls_token is None else expected[:, 0]
    torch.testing.assert_close(tokens[:, 0], cls_token, rtol=1e-5, atol=1e-5)
    assert VitEncoder(vit).tokens(torch.randn(1, 3, 24, 56)).shape == (1, 1 + 3 * 7, 24)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "deit_tiny_distilled_patch16_224"])
def test_other_transformers_of_timm_fit_any_image(name: str) -> None:
    encoder = load_encoder(parse_encoder(f"random:{name}"), device=CPU)
    images = torch.randn(1, 3, 48, 80)
    tokens = encoder.tokens(images)
    assert tokens.shape == (1, 1 + 3 * 5, encoder.embed_dim)
    model = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    model.load_state_dict(encoder.model.state_dict())
    with torch.no_grad():
        expected = model.forward_features(images)
    torch.testing.assert_close(tokens[:, 1:], expected[:, model.num_prefix_tokens :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_networks_without_patch_tokens_of_one_resolution_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="choose a Vision Transformer"):
        timm_encoder(name)


def test_weights_of_a_file_for_a_timm_architecture(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224").eval()
    save_file(model.state_dict(), tmp_path / "weights@1.safetensors")  # with its classifier, as published
    encoder = load_encoder(parse_encoder(f"vit_tiny_patch16_224@{tmp_path}/weights@1.safetensors"), device=CPU)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = model.forward_features((images - 0.5) / 0.5)  # this architecture's weights are trained on another range
    torch.testing.assert_close(encoder.tokens(normalise(images)), expected, rtol=1e-4, atol=1e-4)
    partial = {key: tensor for key, tensor in model.state_dict().items() if "blocks.3.norm1" not in key}
    save_file(partial, tmp_path / "partial.safetensors")
    with pytest.raises(CheckpointError, match=r"vit_tiny_patch16_224 do not fit: .* missing \['blocks\.3\.norm1"):
        load_encoder(parse_encoder(f"vit_tiny_patch16_224@{tmp_path}/partial.safetensors"), device=CPU)


def test_renormalising_undoes_imagenet_s_mean_and_deviation() -> None:
    vit, images = (
        VitEncoder(build_vit(VitSettings(image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2))),
        torch.rand(1, 3, 16, 16),
    )
    tokens = RenormalisedEncoder(vit, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)).tokens(normalise(images))
    by_hand = (images - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
    torch.testing.assert_close(tokens, vit.tokens(by_hand), rtol=1e-5, atol=1e-5)


def test_config_names_an_architecture_and_its_weights_together() -> None:
    assert EncoderSettings(timm="vit_tiny_patch16_224", checkpoint="w.pth").checkpoint == "w.pth"
    with pytest.raises(ValueError, match="name exactly one"):
        EncoderSettings(timm="vit_tiny_patch16_224", checkpoint="w.pth", pixels=8)


@torch.no_grad()
def test_a_video_encoder_sees_one_tubelet_of_the_repeated_frame(tmp_path: Path) -> None:
    vit = build_vit(VitSettings(image_size=224, patch_size=16, embed_dim=192, depth=1, num_heads=3), class_token=False).eval()
    torch.nn.init.normal_(vit.blocks[0].attn.qkv.bias)
    bias = vit.blocks[0].attn.qkv.bias
    bias[192:384] = 0  # queries and values alone have one
    kernel = torch.randn(192, 3, 2, 16, 16) * 0.02
    state = {
        f"encoder.{key}": tensor for key, tensor in vit.state_dict().items() if key not in ("pos_embed", "blocks.0.attn.qkv.bias")
    }
    state |= {"encoder.patch_embed.proj.weight": kernel, "encoder.blocks.0.attn.q_bias": bias[:192].clone()}
    state |= {
        "encoder.blocks.0.attn.v_bias": bias[384:].clone(),
        "mask_token": torch.zeros(1, 1, 96),
        "decoder.norm.weight": torch.ones(96),
    }
    torch.save({"model": state}, tmp_path / "video.pth")
    images = torch.randn(1, 3, 224, 224)
    clip = images[:, :, None].expand(-1, -1, 2, -1, -1)
    patches = F.conv3d(clip, kernel, vit.patch_embed.proj.bias, stride=(2, 16, 16)).flatten(2).transpose(1, 2)
    expected = vit.norm(vit.blocks(patches + sinusoid_positions(1568, 192)[:, :196]))
    encoder = load_encoder(parse_encoder(str(tmp_path / "video.pth")), device=CPU)
    torch.testing.assert_close(encoder.tokens(images)[:, 1:], expected, rtol=1e-4, atol=1e-4)
    assert encoder.tokens(torch.randn(1, 3, 96, 160)).shape == (1, 1 + 6 * 10, 192)


def test_onednn_gives_the_same_products() -> None:
    torch.manual_seed(0)
    vit = VitEncoder(VisionTransformer(**SIZES))
    images = torch.randn(2, 3, 32, 40)
    expected, digest = vit.tokens(images), vit.digest
    freeze_to_onednn(vit)
    torch.testing.assert_close(vit.tokens(images), expected, rtol=1e-5, atol=1e-5)
    assert vit.digest == digest
    left, right = torch.randn(5, 24), torch.randn(7, 24)
    torch.testing.assert_close(products(left, right), left @ right.T)
    torch.testing.assert_close(products(left.double(), right.double()), left.double() @ right.double().T)
