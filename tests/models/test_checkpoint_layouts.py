"""Encoders from files as they are published or saved by trainers: what is loaded, what is said, what is refused with which remedy."""

from __future__ import annotations

import argparse
import collections
import json
import logging
import pathlib
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cdgmae import load_encoder
from cdgmae.models.encoders.checkpoint_files import CheckpointError
from cdgmae.models.encoders.frozen_encoder import Encoder
from cdgmae.settings.encoder import EncoderSettings

CPU = torch.device("cpu")
SIDE = 32


def network(seed: int = 0, **dimensions: int) -> VisionTransformer:
    torch.manual_seed(seed)
    vit = VisionTransformer(
        **{"img_size": SIDE, "patch_size": 8, "embed_dim": 192, "depth": 1, "num_heads": 3, "num_classes": 0, **dimensions}
    )
    for parameter in vit.parameters():  # trained networks attend, fresh ones hardly do
        if parameter.ndim == 2:
            parameter.data.mul_(3)
    return vit.eval()


def under(prefix: str, vit: VisionTransformer) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in vit.state_dict().items()}


def load(path: Path, content: Any, **said: Any) -> Encoder:
    torch.save(content, path)
    return load_encoder(EncoderSettings(checkpoint=str(path), **said), device=CPU)


@torch.no_grad()
def same(encoder: Encoder, vit: VisionTransformer) -> bool:
    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return torch.allclose(encoder.tokens(images), vit.forward_features(images), atol=1e-4)


HEADS = {"dino_head.mlp.0.weight": torch.zeros(2, 192), "ibot_head.mlp.0.weight": torch.zeros(2, 192)}
TAKEN, OTHER = network(0), network(1)
LAYOUTS: dict[str, Any] = {
    "DINO": {"student": under("module.backbone.", OTHER), "teacher": under("backbone.", TAKEN) | {"head.mlp.0.weight": torch.zeros(2, 192)}},
    "I-JEPA": {"encoder": under("module.", OTHER), "target_encoder": under("module.", TAKEN), "epoch": 300},
    "DINOv2 model_final": {"model": under("student.backbone.", OTHER) | under("teacher.backbone.", TAKEN)},
    "DINOv2 teacher with heads": {"teacher": under("backbone.", TAKEN) | HEADS},
    "Lightning": {"state_dict": under("model.", TAKEN), "epoch": 3},
    "Lightning, wrapped twice": {"state_dict": under("model.module.encoder.", TAKEN)},
    "PyTorch tutorial": {"model_state_dict": under("", TAKEN), "optimizer_state_dict": {}},
    "DeepSpeed": {"module": under("", TAKEN), "dp_world_size": 8},
    "MAE, fine-tuned": {"model": {re.sub("^norm", "fc_norm", key): value for key, value in under("", TAKEN).items()}},
    "timm with average": {"arch": "x", "state_dict": under("", OTHER), "state_dict_ema": under("", TAKEN)},
    "MAE with average": {"model": under("", OTHER), "model_ema": under("", TAKEN)},
    "average alone": {"model_ema": under("module.", TAKEN)},
    "counter among the weights": {"model": {**under("", TAKEN), "num_updates": 7}},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_usual_layout_gives_the_weights_that_its_authors_evaluate(tmp_path: Path, layout: str) -> None:
    assert same(load(tmp_path / "file.pth", LAYOUTS[layout]), TAKEN)


def test_mocov3_has_its_twelve_heads_and_its_stripped_file_asks_for_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moco, momentum = (network(seed, embed_dim=384, num_heads=12) for seed in range(2))
    content = {
        "arch": "vit_small",
        "state_dict": under("module.base_encoder.", moco) | under("module.momentum_encoder.", momentum),
    }
    with caplog.at_level(logging.INFO, "cdgmae"):
        assert same(load(tmp_path / "vit-s-300ep.pth.tar", content), moco)
    assert "assumed 12 heads, as MoCo-v3's networks have (choose with num_heads)" in caplog.text
    assert "module.base_encoder." in caplog.text
    assert same(load(tmp_path / "chosen.pth", content, prefix="module.momentum_encoder.", num_heads=12), momentum)
    with pytest.raises(CheckpointError, match=r"width 384 have 6 .* or 12 \(MoCo-v3\).*\?num_heads=N"):
        load(tmp_path / "stripped.pth", moco.state_dict())
    assert same(load(tmp_path / "stripped.pth", moco.state_dict(), num_heads=12), moco)


def test_the_raw_weights_beside_an_average_are_taken_on_request_and_the_choice_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = LAYOUTS["MAE with average"]
    with caplog.at_level(logging.INFO, "cdgmae"):
        load(tmp_path / "mae.pth", content)
    assert "assumed averaged weights `model_ema`, although `model` are there too (choose with key)" in caplog.text
    assert same(load(tmp_path / "mae.pth", content, key="model"), OTHER)
    assert same(load(tmp_path / "deep.pth", {"a": {"b": under("", TAKEN)}}, key="a/b"), TAKEN)
    with pytest.raises(CheckpointError, match=r"no weights at key 'ema'; keys with weights: model, model_ema"):
        load(tmp_path / "mae.pth", content, key="ema")
    with pytest.raises(CheckpointError, match=r"begins with prefix 'x\.'; prefixes of its encoders: \[''\]"):
        load(tmp_path / "mae.pth", content, prefix="x.")


def test_several_unknown_encoders_in_one_file_are_not_guessed(tmp_path: Path) -> None:
    content = {"model": under("left.", TAKEN) | under("right.", OTHER)}
    with pytest.raises(
        CheckpointError, match=r"several encoders, with prefixes \['left\.', 'right\.'\]; say which one with prefix"
    ):
        load(tmp_path / "two.pth", content)
    assert same(load(tmp_path / "two.pth", content, prefix="right."), OTHER)


def test_weights_for_a_named_timm_architecture_follow_the_same_pass(tmp_path: Path) -> None:
    raw, average = (timm.create_model("deit_tiny_patch16_224", num_classes=0).eval() for _ in range(2))
    torch.save({"state_dict": raw.state_dict(), "state_dict_ema": average.state_dict()}, tmp_path / "timm.pth.tar")
    settings = EncoderSettings(timm="deit_tiny_patch16_224", checkpoint=str(tmp_path / "timm.pth.tar"))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for chosen, model in ((settings, average), (settings.model_copy(update={"key": "state_dict"}), raw)):
            tokens = load_encoder(chosen, device=CPU).tokens(images)
            torch.testing.assert_close(tokens, model.forward_features(images), rtol=1e-4, atol=1e-4)


BESIDE = {
    "numpy number": {"best_acc": np.float64(71.2)},
    "numpy array": {"losses": np.arange(3.0)},
    "path": {"args": argparse.Namespace(output_dir=pathlib.PosixPath("/x"))},
    "defaultdict": {"log": collections.defaultdict(list, a=[1])},
}


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_objects_beside_the_weights_are_left_alone(tmp_path: Path, kind: str, zipped: bool) -> None:
    path = tmp_path / "state.pth"
    torch.save({"model": TAKEN.state_dict(), **BESIDE[kind]}, path, _use_new_zipfile_serialization=zipped)
    if not zipped and kind.startswith("numpy"):
        with pytest.raises(CheckpointError, match="convert its state dict to") as refused:
            load_encoder(EncoderSettings(checkpoint=str(path)), device=CPU)
        assert "weights_only" not in str(refused.value)
    else:
        assert same(load_encoder(EncoderSettings(checkpoint=str(path)), device=CPU), TAKEN)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return pathlib.Path.touch, (pathlib.PosixPath("executed"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run_and_no_message_advises_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": TAKEN.state_dict(), "x": Hostile()}, "hostile.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as refused:
        load_encoder(EncoderSettings(checkpoint="hostile.pth"), device=CPU)
    assert "weights_only" not in str(refused.value)
    assert not Path("executed").exists()


CLAIMS = {
    "repeated.pth": lambda path: torch.save({"w": torch.zeros(1).expand(1 << 20, 1 << 20)}, path),
    "sparse.pth": lambda path: torch.save({"w": torch.zeros(8, 8).to_sparse()}, path),
    "unfolding.pth": lambda path: compress(path),
}


def compress(path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as stored:
        entries = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_small_file_that_stands_for_more_than_it_holds_is_refused(tmp_path: Path, name: str) -> None:
    CLAIMS[name](tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name}(: a tensor of shape .* is sparse or repeats| is compressed)"):
        load_encoder(EncoderSettings(checkpoint=str(tmp_path / name)), device=CPU)


NO_CHECKPOINTS = {
    "pointer.pth": ("version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 342\n", "Git LFS pointer.*git lfs pull"),
    "pointer.safetensors": ("version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 342\n", "Git LFS pointer"),
    "page.pth": ("<!DOCTYPE html><html>Quota exceeded</html>", "web page.*download it again"),
    "model.safetensors.index.json": (json.dumps({"weight_map": {}}), "index of weights that are split"),
    "empty.pth": ("", "is empty"),
    "text.pth": ("hello", "cannot be (read|loaded)"),
}


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_what_lies_where_a_checkpoint_should_is_named_with_its_remedy(tmp_path: Path, name: str) -> None:
    text, message = NO_CHECKPOINTS[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(EncoderSettings(checkpoint=str(tmp_path / name)), device=CPU)


@pytest.mark.parametrize("name", ["absent.ckpt", "absent.bin", "absent.pth.tar"])
def test_absent_files_are_absent_whatever_their_ending(name: str) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_encoder(EncoderSettings(checkpoint=name), device=CPU)


@pytest.mark.parametrize(
    ("entry", "value"), [("norm.weight", torch.nan), ("blocks.0.attn.qkv.weight", torch.inf), ("pos_embed", -torch.inf)]
)
def test_weights_that_are_not_finite_are_refused_with_the_tensor_s_name(tmp_path: Path, entry: str, value: float) -> None:
    state = {key: tensor.clone() for key, tensor in TAKEN.state_dict().items()}
    state[entry].view(-1)[5] = value
    with pytest.raises(CheckpointError, match=f"tensor {entry} holds values that are NaN or infinite"):
        load(tmp_path / "damaged.pth", {"model": state})


def test_weights_that_overflow_are_refused_where_the_features_arise(tmp_path: Path) -> None:
    state = {key: tensor * 1e30 if "mlp" in key else tensor for key, tensor in TAKEN.state_dict().items()}
    with pytest.raises(ValueError, match=r"features of encoder .* are NaN or infinite, first in layer "):
        load(tmp_path / "huge.pth", state).tokens(torch.randn(1, 3, SIDE, SIDE))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timm": "vit", "key": "model"}, "key say what lies in a checkpoint"),
        ({"timm": "vit", "checkpoint": "a.pth", "num_heads": 6}, "num_heads does not go with timm"),
    ],
)
def test_hints_without_a_file_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderSettings(**fields)
