"""A run exported in CropMAE's layout, read the way that code reads it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from typer.testing import CliRunner

from cdgmae import CrossViewMAE
from cdgmae.cli import app
from cdgmae.models.encoders.checkpoints import write_model
from cdgmae.settings.pretrain import PretrainRunSettings

RUN = PretrainRunSettings(
    image_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2,
)  # fmt: skip


def finished_run(folder: Path) -> CrossViewMAE:
    model = CrossViewMAE.from_settings(RUN)
    write_model(folder / "model.safetensors", model.state_dict(), {})
    (folder / "config.json").write_text(json.dumps({"settings": RUN.model_dump(mode="json"), "seed": 0}))
    return model


def test_exported_checkpoint_has_the_published_layout_and_loads_without_unpickling(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    model, output = finished_run(tmp_path / "run"), tmp_path / "checkpoint-99.pth"
    arguments = ["pretrain", "export", "--run-dir", str(tmp_path / "run"), "--output", str(output), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "checkpoint": str(output),
        "tensors": len(model.state_dict()),
        "epoch": 99,
    }
    checkpoint = torch.load(output, map_location="cpu", weights_only=True)
    assert set(checkpoint) == {"model", "epoch", "args"}
    assert checkpoint["args"]["target_masking_ratio"] == 0.9
    # the published evaluation takes the encoder's names out of ckpt["model"] and ignores the rest
    wanted = {key for key in model.state_dict() if not key.startswith(("decoder_", "mask_token"))}
    assert wanted <= set(checkpoint["model"])
    again = CrossViewMAE.from_settings(RUN)
    again.load_checkpoint(output)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())


def test_unfinished_runs_and_wrong_names_are_refused(tmp_path: Path) -> None:
    def problem(run_dir: Path, output: str) -> str:
        result = CliRunner().invoke(app, ["pretrain", "export", "--run-dir", str(run_dir), "--output", output])
        return str(result.exception)

    assert "holds no finished run" in problem(tmp_path, str(tmp_path / "x.pth"))
    assert "must end in .pth" in problem(tmp_path, str(tmp_path / "x.safetensors"))
    finished_run(tmp_path)
    write_model(tmp_path / "model.safetensors", {"cls_token": torch.zeros(1, 1, 24)}, {})
    assert "1 keys matched, missing ['blocks.0" in problem(tmp_path, str(tmp_path / "x.pth"))
    assert not (tmp_path / "x.pth").exists()
