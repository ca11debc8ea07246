"""The memory of pre-training runs: traced, held against what autograd keeps, and told by the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from cdgmae import CrossViewMAE
from cdgmae.cli import app
from cdgmae.pretrain.batches import BagBatches
from cdgmae.pretrain.reconstruction import reconstruct
from cdgmae.pretrain.run_memory import CARDS, blank_batch, describe_memory, run_memory
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.bags import Bags
from cdgmae.training.traced_memory import MARGIN, _Autocast, _FusedAttention
from tests.pretrain.drawn_bags import RUN, write_bags

A1 = PretrainRunSettings()
A3 = PretrainRunSettings(num_anchors=3, anchor_masking_ratio=0.25)
CROPS = PretrainRunSettings(pretext="crops")


def kept_by_autograd(settings: PretrainRunSettings, samples: int) -> int:
    """Bytes of the tensors that the backward pass of a bfloat16 step waits for, the weights' copies included."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with FakeTensorMode():
        with torch.device("meta"):
            model = CrossViewMAE.from_settings(settings).train()
        weights = {name: torch.empty(tensor.shape, device="cuda") for name, tensor in model.state_dict().items()}
        model.load_state_dict(weights, assign=True)
        batch = {
            name: torch.empty(value.shape, dtype=value.dtype, device="cuda")
            for name, value in blank_batch(settings, samples).items()
        }
        with _Autocast("bf16"), _FusedAttention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = reconstruct(model, batch, settings.image_size).loss
    assert (loss.dtype, loss.device.type) == (torch.float32, "cuda")
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(("settings", "mib"), [(A1, 51.7), (A3, 94.0)])
def test_need_is_what_the_backward_pass_waits_for_and_little_more(settings: PretrainRunSettings, mib: float) -> None:
    kept = (kept_by_autograd(settings, 4) - kept_by_autograd(settings, 2)) / 2
    assert kept / 2**20 == pytest.approx(mib, abs=0.05)
    assert kept < run_memory(settings, "bf16").per_sample < 1.08 * kept


@pytest.mark.slow
def test_float32_needs_more_and_plain_mae_less() -> None:
    need = run_memory(A1, "bf16").per_sample
    assert run_memory(A1, "fp32").per_sample > 1.5 * need
    assert run_memory(A1, "fp16") == run_memory(A1, "bf16")
    assert run_memory(PretrainRunSettings(pretext="mae", num_anchors=0), "bf16").per_sample < 0.5 * need
    assert run_memory(CROPS, "bf16").per_sample == pytest.approx(need, rel=0.02)
    assert run_memory(PretrainRunSettings(epochs=7), "bf16") == run_memory(A1, "bf16")


@pytest.mark.parametrize(
    "settings", [A1, A3, CROPS, PretrainRunSettings(num_anchors=12), PretrainRunSettings(architecture="vits8", patch_size=8)]
)
def test_micro_batches_fit_and_are_equal(settings: PretrainRunSettings) -> None:
    row = describe_memory(settings)
    for card, gib in CARDS.items():
        size, memory = row[f"micro_batch_{card}gb"], row[f"memory_gib_{card}gb"]
        assert isinstance(size, int)
        assert memory is not None
        assert 2048 % size == 0
        assert memory <= (1 - MARGIN) * gib
        assert size == 2048 or run_memory(settings, "bf16").of(2 * size) > (1 - MARGIN) * gib * 2**30
    assert describe_memory(A1)["micro_batch_80gb"] == 1024
    assert describe_memory(A3)["micro_batch_80gb"] == 512


@pytest.mark.parametrize(
    "options",
    [{"num_anchors": 2, "anchor_masking_ratio": 0.25}, {"num_anchors": 1, "anchor_masking_ratio": 0.0},
     {"pretext": "crops", "num_anchors": 1}, {"pretext": "crops", "num_anchors": 1, "crop_strategy": "random_views"},
     {"pretext": "crops", "num_anchors": 1, "crop_strategy": "same_views"}, {"pretext": "mae", "num_anchors": 0}],
)  # fmt: skip
def test_blank_batches_have_the_form_of_real_ones(tmp_path: Path, options: dict[str, object]) -> None:
    settings = PretrainRunSettings.from_plain({**RUN.model_dump(exclude={"source"}), **options})
    store = Bags(*write_bags(tmp_path)).usable()
    real, blank = BagBatches(store, settings, seed=0).batch(0, range(4)), blank_batch(settings, 4)
    assert {name: tensor.dtype for name, tensor in real.items()} == {name: tensor.dtype for name, tensor in blank.items()}
    for name in set(real) - {"pixels"}:
        assert real[name].shape == blank[name].shape, name


def test_the_command_says_micro_batch_and_memory_of_every_run(tmp_path: Path) -> None:
    paper = Path(__file__).parents[2] / "workflow/experiments/paper.yaml"
    arguments = ["pretrain", "flops", "--images", "1281167", "--config"]
    rows = json.loads(CliRunner().invoke(app, [*arguments, str(paper), "--json"]).stdout.splitlines()[-1])["runs"]
    for name, settings in (("cdg_a1", A1), ("cdg_a3", A3)):
        assert {key: rows[name][key] for key in describe_memory(settings)} == describe_memory(settings)
    assert rows["cropmae"]["micro_batch_24gb"] == 256
    text = CliRunner().invoke(app, [*arguments, str(paper), "--run", "cdg_a3"]).stdout
    assert re.search(r"micro_batch_80gb +512", text)
    small = yaml.safe_load(paper.read_text())
    small["runtime"]["micro_batch_size"] = 300
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    rows = json.loads(CliRunner().invoke(app, [*arguments, str(tmp_path / "small.yaml"), "--json"]).stdout.splitlines()[-1])[
        "runs"
    ]
    assert [rows["cdg_a3"][f"micro_batch_{card}gb"] for card in CARDS] == [None, 256, 256]
