"""Files from elsewhere, damaged by the hundred: every reader gives a result or one message, in bounded time and memory."""

from __future__ import annotations

import io
import json
import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
import yaml
from safetensors.torch import save

from cdgmae.config import load_config
from cdgmae.generators.imported.original_config import read_original_config
from cdgmae.models.encoders.checkpoints import load_encoder_file
from cdgmae.models.vit import build_vit
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.propagation.measures.joints import read_joints
from cdgmae.propagation.tracks.point_clips import read_tracks
from cdgmae.propagation.tracks.tap_vid_pickle import read_pickled_videos
from cdgmae.settings.encoder import EncoderSettings, VitSettings
from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.listing import list_images
from cdgmae.storage.journal import Journal, NewRecord
from cdgmae.storage.media.clips import open_clip
from cdgmae.storage.media.images import decode_rgb, encode_jpeg, fit_image
from cdgmae.storage.tables import read_table
from tests.faults.bounded import Read, feed
from tests.faults.ledger import recorded, sample
from tests.faults.mutations import damaged
from tests.shards.drawn_images import image_bytes, write_tar
from tests.video_files import write_video

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
VIT = VitSettings(image_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)


@dataclass(frozen=True)
class Kind:
    """A kind of file: whole ones, how a stage reads it, and how many are damaged in the short and the long set."""

    stage: str
    seeds: Callable[[Path], Sequence[bytes]]
    read: Callable[[Path], object]
    name: str
    counts: tuple[int, int]

    def reader(self, folder: Path) -> Read:
        """Takes the bytes of a file of this kind, which lies alone in a folder."""

        def read(content: bytes) -> object:
            (folder / self.name).write_bytes(content)
            return self.read(folder / self.name)

        return read


def read_image(path: Path) -> object:
    return encode_jpeg(fit_image(decode_rgb(path.read_bytes()), "center_crop", 32), 90)


def images(_: Path) -> list[bytes]:
    return [image_bytes(number, format=name) for number, name in enumerate(FORMATS)]


def tars(folder: Path) -> list[bytes]:
    members = {f"{key}.{ending}": image_bytes(3) if ending == "jpg" else b"7" for key in "abc" for ending in ("jpg", "cls")}
    return [write_tar(folder / "whole.tar", chosen).read_bytes() for chosen in (members, {"long" * 60 + ".jpg": b"x", **members})]


def list_tar(layout: str) -> Callable[[Path], object]:
    return lambda path: list_images(DatasetSettings.checked({"path": str(path.parent), "layout": layout}, "drill"))


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def checkpoints(_: Path) -> list[bytes]:
    state = build_vit(VIT).state_dict()
    return [
        saved(state), saved({"model": state, "epoch": 3}), saved({"teacher": state}, _use_new_zipfile_serialization=False),
    ]  # fmt: skip


def tensors(_: Path) -> list[bytes]:
    result = {"settings": VIT.canonical_json()}
    return [save(build_vit(VIT).state_dict(), metadata=result), save(build_vit(VIT).state_dict())]


def read_encoder(path: Path) -> object:
    return load_encoder_file(path, EncoderSettings(checkpoint=str(path), num_heads=2))


def matlab_files(_: Path) -> list[bytes]:
    found = []
    for compressed in (False, True):
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"pos_img": np.ones((2, 15, 4)), "viewpoint": "N"}, do_compression=compressed)
        found.append(buffer.getvalue())
    return found


def pickles(_: Path) -> list[bytes]:
    video = {
        "video": np.zeros((3, 8, 8, 3), np.uint8),
        "points": np.zeros((2, 3, 2), np.float32),
        "occluded": np.zeros((2, 3), bool),
    }
    return [pickle.dumps({"goat": video}, protocol=protocol) for protocol in (2, 4)]


def points(_: Path) -> list[bytes]:
    rows = [{"frame": frame, "point": name, "x": 1.5, "y": 2, "visible": True, "size": 9} for frame in range(3) for name in "pq"]
    return [json.dumps(rows).encode()]


def read_points(path: Path) -> object:
    return read_tracks(LabelledClip("clip", (path,) * 3, (path,), (8, 8)))


def tables(_: Path) -> list[bytes]:
    buffer = io.BytesIO()
    columns = {"key": [f"k{number}" for number in range(50)], "nps": np.linspace(0, 1, 50), "embedding": [[0.5] * 4] * 50}
    pq.write_table(pa.table(columns), buffer, write_page_checksum=True)
    return [buffer.getvalue()]


def clips(folder: Path) -> list[bytes]:
    return [write_video(folder / f"whole.{ending}", 5).read_bytes() for ending in ("mp4", "mkv", "avi")]


def read_clip(path: Path) -> object:
    clip = open_clip(path)
    return list(clip.read([0, 3]))


def journals(folder: Path) -> list[bytes]:
    with Journal(folder, "same", "views").claim("000") as writer:
        writer.append([NewRecord(f"k{number}", {"number": number}, b"data" * number) for number in range(5)])
    return [(folder / "000.jsonl").read_bytes()]


def read_journal(path: Path) -> object:
    return Journal(path.parent, "same", "views").records()


def configurations(_: Path) -> list[bytes]:
    return [
        Path("config.yaml").read_bytes(),
        *(path.read_bytes() for path in sorted(Path("workflow/experiments").glob("*.yaml"))[:4]),
    ]


def foreign_configurations(_: Path) -> list[bytes]:
    unet = {
        "image_size": 64,
        "in_channels": 3,
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [2],
    }
    model = {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {"timesteps": 1000, "unet_config": {"params": unet}},
    }
    return [yaml.safe_dump({"model": model}).encode()]


KINDS = {
    "images": Kind("shards write", images, read_image, "image", (300, 2000)),
    "WebDataset tars": Kind("shards write", tars, list_tar("webdataset"), "a.tar", (60, 500)),
    "class tars": Kind("shards write", tars, list_tar("class_tars"), "a.tar", (30, 200)),
    "clips": Kind("shards write", clips, read_clip, "clip.mp4", (30, 200)),
    "checkpoints (.pth)": Kind("propagation run", checkpoints, read_encoder, "encoder.pth", (60, 400)),
    "checkpoints (.safetensors)": Kind("propagation run", tensors, read_encoder, "encoder.safetensors", (60, 300)),
    "MATLAB files": Kind("propagation run", matlab_files, read_joints, "joint_positions.mat", (60, 400)),
    "pickles": Kind("propagation prepare-tap-vid", pickles, read_pickled_videos, "davis.pkl", (60, 300)),
    "points": Kind("propagation run", points, read_points, "points.json", (60, 300)),
    "tables": Kind("consistency query", tables, read_table, "00000.parquet", (60, 400)),
    "journals": Kind("views make", journals, read_journal, "000.jsonl", (30, 200)),
    "configurations": Kind("config check", configurations, load_config, "config.yaml", (20, 200)),
    "configurations of checkpoints": Kind(
        "views import-generator", foreign_configurations, read_original_config, "ldm.yaml", (30, 200)
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    kind, draw = KINDS[name], random.Random(name)
    whole, here = tmp_path / "whole", tmp_path / "here"
    whole.mkdir()
    here.mkdir()
    seeds = kind.seeds(whole)
    if name == "journals":
        (here / "000.bin").write_bytes((whole / "000.bin").read_bytes())
    inputs = [*seeds, *(damaged(seeds, draw) for _ in range(sample(*kind.counts)))]
    count, problems = feed(kind.reader(here), inputs, tmp_path / "log")
    assert recorded(kind.stage, f"damaged {name}", count).all_survived, problems
