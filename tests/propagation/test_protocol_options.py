"""Protocol options reach the result and stand beside it; the engine equals the literal protocol on whole images."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from drawn_clips import write_davis, write_jhmdb
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.models.normalisation import normalise
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.benchmarks.jhmdb import JhmdbProtocol
from cdgmae.propagation.engine.clip_workers import frozen_encoder
from cdgmae.propagation.engine.frames import embed_frames, read_frame
from cdgmae.propagation.engine.resizing import resize_bilinear
from cdgmae.propagation.engine.streaming import stream_clip
from cdgmae.propagation.evaluation import run_propagation
from cdgmae.propagation.layouts.davis_layout import read_davis
from cdgmae.propagation.measures.object_scorer import ObjectScorer
from cdgmae.settings.encoder import VitSettings, parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.tables import table_metadata
from tests.oracles.propagation_oracle import literal_clip_labels

CPU = torch.device("cpu")
ON_CPU = RuntimeSettings(device="cpu")
SMALL_VIT = f"random:{VitSettings(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2).canonical_json()}"


def test_masks_equal_those_of_the_literal_protocol_with_recomputed_padding(tmp_path: Path) -> None:
    protocol = DavisProtocol(
        root=str(write_davis(tmp_path / "clips", ("one",), frames=6)), input_size=(64, 96), queue_length=3, radius=4.0
    )
    clip = read_davis(Path(protocol.root), "480p")[0]
    streaming, literal = (ObjectScorer(clip, (64, 96), (8, 12), range(len(clip.frames))) for _ in range(2))
    stream_clip(clip, streaming, frozen_encoder(parse_encoder(SMALL_VIT), CPU, protocol), protocol, CPU)
    frames = [normalise(resize_bilinear(read_frame(path).float() / 255, (64, 96))[None])[0] for path in clip.frames]
    labels = literal_clip_labels(
        frames, load_encoder(parse_encoder(SMALL_VIT), device=CPU).tokens, literal.first_labels(), (8, 12),
        top_k=7, queue_length=3, radius=4.0, temperature=0.7,
    )  # fmt: skip
    for frame, labels_NC in enumerate(labels):
        literal.add(frame, labels_NC)
    assert streaming.predictions() == literal.predictions()
    assert streaming.rows() == literal.rows()


def test_davis_can_be_scored_at_the_input_size(tmp_path: Path) -> None:
    root = str(write_davis(tmp_path / "clips"))
    tables = []
    for size in ("annotation", "input"):
        protocol = DavisProtocol(root=root, input_size=(128, 160), radius=4.0, scored_size=size)
        output = tmp_path / f"{size}.parquet"
        run_propagation(protocol, parse_encoder("pixels:8"), output, runtime=ON_CPU, save_predictions=tmp_path / size)
        tables.append(pq.read_table(output).to_pylist())
        assert table_metadata(output)["protocol"]["scored_size"] == size
    assert {(row["scored_height"], row["scored_width"]) for row in tables[0]} == {(64, 96)}
    assert {(row["scored_height"], row["scored_width"]) for row in tables[1]} == {(128, 160)}
    assert tables[0][0]["J_mean"] != tables[1][0]["J_mean"]
    masks = [sorted((tmp_path / size / "masks/one").iterdir()) for size in ("annotation", "input")]
    assert [path.read_bytes() for path in masks[0]] == [path.read_bytes() for path in masks[1]]


def test_flags_of_the_protocol_are_written_beside_the_scores(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "clips", ("one",), frames=4)
    arguments = [
        "run", "davis", "--root", str(root), "--encoder", SMALL_VIT, "--output", str(tmp_path), "--settings", "input_size=64x96",
        "--device", "cpu",
    ]  # fmt: skip
    changes = ["restrict_first_frame=true", "restart_every=2", "scored_size=input", "precision=bf16"]
    flags = [word for change in changes for word in ("--settings", change)]
    result = CliRunner().invoke(app, ["propagation", *arguments, *flags, "--json"])
    assert result.exit_code == 0, result.output
    protocol = json.loads(pq.read_table(tmp_path / "davis.parquet").to_pylist()[0]["protocol"])
    chosen = {key: protocol[key] for key in ("name", "restrict_first_frame", "restart_every", "scored_size", "precision")}
    assert chosen == {
        "name": "cropmae",
        "restrict_first_frame": True,
        "restart_every": 2,
        "scored_size": "input",
        "precision": "bf16",
    }


def test_bf16_features_are_unit_vectors_near_those_of_fp32(tmp_path: Path) -> None:
    frames = sorted(write_davis(tmp_path / "clips", ("one",), frames=2).rglob("*.jpg"))
    encoder = load_encoder(parse_encoder(SMALL_VIT), device=CPU)
    exact, rounded = (
        torch.stack(list(embed_frames(frames, (64, 96), encoder, CPU, precision))) for precision in ("fp32", "bf16")
    )
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.norm(dim=-1), torch.ones(2, 96))
    assert 0 < (exact - rounded).abs().max() < 0.1


@pytest.mark.parametrize(("patch_size", "side"), [(8, 40), (16, 20)])
def test_the_joint_grid_follows_the_patch_size_and_static_joints_are_all_found(
    tmp_path: Path, patch_size: int, side: int
) -> None:
    vit = VitSettings(image_size=8 * patch_size, patch_size=patch_size, embed_dim=24, depth=1, num_heads=2)
    root = write_jhmdb(tmp_path / "clips", ("run_1",), frames=3)
    protocol = JhmdbProtocol(root=str(root), input_size=(320, 320))
    scores = run_propagation(
        protocol,
        parse_encoder(f"random:{vit.canonical_json()}"),
        tmp_path / "t.parquet",
        runtime=ON_CPU,
        save_predictions=tmp_path,
    )
    assert set(scores.values()) == {100.0}
    joints = pq.read_table(tmp_path / "joints/run_1.parquet")
    assert side / 2 < max(joints["cell_x"].to_pylist()) < side
