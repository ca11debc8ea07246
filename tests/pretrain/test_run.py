"""Pre-training runs on real shards: what is written, and that a killed run ends the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cdgmae import load_encoder
from cdgmae.pretrain.run import run_pretrain
from cdgmae.pretrain.task import PretrainTask
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.tables import read_table
from tests.pretrain.drawn_bags import RUN, write_bags

CPU = torch.device("cpu")


def train_into(
    folder: Path, reals: list[Path], views: list[Path], settings: PretrainRunSettings = RUN, every: float = 1e9
) -> dict[str, object]:
    runtime = RuntimeSettings(device="cpu", checkpoint_interval_seconds=every)
    return run_pretrain(settings, 5, reals, views, folder / "out", folder / "work", runtime)


def test_run_writes_the_declared_files_and_lowers_the_loss(tmp_path: Path) -> None:
    reals, views = write_bags(tmp_path)
    result = train_into(tmp_path, reals, views, RUN.model_copy(update={"epochs": 40}))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["config.json", "encoder.safetensors", "metrics.parquet", "model.safetensors", "panels"]
    assert not (tmp_path / "work").exists()
    assert isinstance(result["last_loss"], float)
    assert isinstance(result["first_loss"], float)
    assert result["last_loss"] < 0.95 * result["first_loss"]
    metrics = read_table(tmp_path / "out/metrics.parquet")
    assert metrics.column("step").to_pylist() == list(range(80))
    assert metrics.column("epoch").to_pylist()[2] == 1.0
    assert json.loads((tmp_path / "out/config.json").read_text())["num_bags"] == 20
    model, encoder = load_file(tmp_path / "out/model.safetensors"), load_file(tmp_path / "out/encoder.safetensors")
    assert all(torch.equal(tensor, model[key]) for key, tensor in encoder.items())
    assert load_encoder(parse_encoder(str(tmp_path / "out/encoder.safetensors")), device=CPU).tokens(
        torch.zeros(1, 3, 32, 32)
    ).shape == (1, 17, 24)


class Killed(BaseException):
    """Stands for `kill -9`."""


def test_killed_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reals, views = write_bags(tmp_path)
    train_into(tmp_path / "a", reals, views)
    original = PretrainTask.loss

    def dying(self: PretrainTask, *arguments: object) -> torch.Tensor:
        if arguments[-1] == 5:
            raise Killed
        return original(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(PretrainTask, "loss", dying)
        with pytest.raises(Killed):
            train_into(tmp_path / "b", reals, views, every=0.0)
    train_into(tmp_path / "b", reals, views)
    assert (tmp_path / "a/out/model.safetensors").read_bytes() == (tmp_path / "b/out/model.safetensors").read_bytes()


def test_too_few_bags_and_too_few_views_are_refused(tmp_path: Path) -> None:
    reals, views = write_bags(tmp_path, num_bags=4, num_views=1)
    with pytest.raises(ValueError, match="only 4 bags"):
        train_into(tmp_path, reals, views, RUN.model_copy(update={"num_anchors": 1}))
    with pytest.raises(ValueError, match=r"no bag has 2 generated view\(s\)"):
        train_into(tmp_path, reals, views)
    other, _ = write_bags(tmp_path / "other", num_bags=2)
    with pytest.raises(ValueError, match="views without a real image"):
        Bags(other, views).usable()


def test_crops_and_plain_mae_train_on_real_images_alone(tmp_path: Path) -> None:
    reals, _ = write_bags(tmp_path)
    for pretext, anchors in (("crops", 1), ("mae", 0)):
        settings = RUN.model_copy(update={"pretext": pretext, "num_anchors": anchors, "source": "crops", "epochs": 1})
        assert train_into(tmp_path / pretext, reals, [], settings)["steps"] == 2
