"""The cost of a run: the paper's Table 8, torch's own counter, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from cdgmae import CrossViewMAE
from cdgmae.cli import app
from cdgmae.pretrain.flops import count_flops, count_images, count_parameters, table_8
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
from cdgmae.storage.media.images import encode_jpeg
from cdgmae.storage.tables import write_table

SMALL = {
    "image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "decoder_embed_dim": 16,
    "decoder_depth": 2, "decoder_num_heads": 2, "target_masking_ratio": 0.75,
}  # fmt: skip
VARIANTS = [
    {"num_anchors": 1},
    {"num_anchors": 3, "anchor_masking_ratio": 0.25},
    {"num_anchors": 2, "anchor_masking_ratio": 0.5, "anchor_cls_in_memory": False},
    {"num_anchors": 0, "pretext": "mae"},
]


def counted_by_torch(settings: PretrainRunSettings) -> int:
    """FLOPs of a forward pass of one sample; the plain attention and linear layers, which the counter knows."""
    model = CrossViewMAE.from_settings(settings).eval()
    side = settings.image_size
    anchors = torch.zeros(1, settings.num_anchors, 3, side, side) if settings.num_anchors else None
    no_onednn = torch.backends.mkldnn.flags(enabled=False)
    with sdpa_kernel(SDPBackend.MATH), no_onednn, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, side, side), anchors)
    return counter.get_total_flops()


def test_all_rows_of_table_8_agree_to_the_printed_digit() -> None:
    rows = table_8()
    assert len(rows) == 8
    for row in rows:
        assert f"{row['paper_gflops']:.1f}" == f"{row['printed_gflops']:.1f}", row
    formula = [6.0365, 10.4094, 8.2628, 6.1162, 11.5624, 8.3425, 14.8621, 10.5688]
    true = [13.086, 22.687, 17.701, 12.892, 24.810, 17.596, 31.918, 22.300]
    assert [row["paper_gflops"] for row in rows] == pytest.approx(formula, abs=6e-5)
    assert [row["true_gflops"] for row in rows] == pytest.approx(true, abs=6e-4)
    assert [row["printed_gflops"] for row in rows] == [6.0, 10.4, 8.3, 6.1, 11.6, 8.3, 14.9, 10.6]


def test_vit_s8_costs_what_the_formula_says() -> None:
    assert count_flops(PretrainRunSettings.from_plain({"architecture": "vits8"})).paper / 1e9 == pytest.approx(23.58, abs=0.005)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_true_flops_are_those_that_torch_counts(variant: dict[str, object]) -> None:
    settings = PretrainRunSettings.from_plain({**SMALL, **variant})
    assert count_flops(settings).true_forward == counted_by_torch(settings)


def test_parameters_of_vit_s16() -> None:
    expected = {"parameters": 28_327_808, "trained": 28_201_728, "encoder": 21_590_016}
    assert count_parameters(PretrainRunSettings()) == expected


def test_command_prints_table_8_and_every_run_of_a_config() -> None:
    table = CliRunner().invoke(app, ["pretrain", "flops", "--table8"])
    assert table.exit_code == 0
    assert "11.56" in table.stdout
    config = str(Path(__file__).parents[2] / "config.yaml")
    result = CliRunner().invoke(app, ["pretrain", "flops", "--config", config, "--images", "240", "--json"])
    runs = json.loads(result.stdout.splitlines()[-1])["runs"]
    assert set(runs) == {"conditioning", "crops", "cdg"}
    settings = PretrainRunSettings.from_plain(
        {"image_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3, "decoder_embed_dim": 64,
         "decoder_depth": 1, "decoder_num_heads": 4, "num_anchors": 2, "anchor_masking_ratio": 0.25}
    )  # fmt: skip
    step = count_flops(settings).true_step
    assert runs["cdg"]["gpu_hours"] == pytest.approx(step * 240 * 36 / 400e12 / 3600)
    faster = CliRunner().invoke(
        app, ["pretrain", "flops", "--config", config, "--run", "cdg", "--images", "240", "--tflops", "800", "--json"]
    )
    only = json.loads(faster.stdout.splitlines()[-1])["runs"]
    assert set(only) == {"cdg"}
    assert only["cdg"]["gpu_hours"] == pytest.approx(runs["cdg"]["gpu_hours"] / 2)


def test_images_are_counted_in_the_shards_of_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "results/shards/demo"
    assert count_images(folder) is None
    for number in range(2):
        with ImageShardWriter(folder / f"{number:05d}.tar") as writer:
            for key in ("a", "b"):
                row = ImageRow(f"{key}{number}", 0, extension="jpg", width=8, height=8)
                writer.add_image(row, encode_jpeg(Image.new("RGB", (8, 8)), 90))
            writer.add_failure(ImageRow(f"c{number}", 0, status="bad", reason="drawn so"))
            writer.commit(settings_digest="test")
    assert count_images(folder) == 4
    names = pa.schema([("shard", pa.string())])
    write_table(folder / "manifest.parquet", [{"shard": "00000"}], names)
    write_table(folder / "summary.parquet", [{"shard": "00000"}], names)
    assert count_images(folder) == 2  # the other was left behind
    (folder / "summary.parquet").unlink()
    config = Path(__file__).parents[2] / "config.yaml"
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["pretrain", "flops", "--config", str(config), "--run", "cdg", "--json"])
    assert json.loads(result.stdout.splitlines()[-1])["runs"]["cdg"]["images"] == 4


def test_unknown_run_and_missing_number_of_images_say_what_to_do() -> None:
    config = str(Path(__file__).parents[2] / "config.yaml")
    unknown = CliRunner().invoke(app, ["pretrain", "flops", "--config", config, "--run", "cgd"])
    assert isinstance(unknown.exception, ValueError)
    assert "conditioning, crops, cdg" in str(unknown.exception)
    result = CliRunner().invoke(app, ["pretrain", "flops", "--json"])
    row = json.loads(result.stdout.splitlines()[-1])["runs"]["settings"]
    assert row["gpu_hours"] is None
    assert f"{row['paper_gflops']:.1f}" == "6.0"
