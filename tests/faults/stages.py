"""Every stage that computes as one small command line, what it writes, and what of that must be the same however often it was cut."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from cdgmae.storage.files.records import RECORD_SUFFIX
from cdgmae.training.metrics import MACHINE_COLUMNS
from tests.consistency.drawn_bags import TINY_VIT
from tests.faults.forked import ForkedCommand
from tests.generators.conftest import ENCODER, training_settings, write_shard
from tests.pretrain.drawn_bags import RUN
from tests.propagation.drawn_clips import write_davis
from tests.shards.drawn_images import image_bytes

KEYS = tuple(f"k{number:02d}" for number in range(8))
MACHINE = '{"device": "cpu", "threads": 1, "checkpoint_interval_steps": 2, "trackers": []}'
OUT_OF_RECORD = ("performance", "seconds", "device", "host")


@dataclass(frozen=True)
class Place:
    """What the stages read: images, two shards of them, their views, a generator, embeddings, clips."""

    root: Path

    @property
    def shard(self) -> Path:
        return self.root / "results/shards/demo/00000.tar"


@dataclass(frozen=True)
class Stage:
    """One command: `words` by place and the folder that it may write to; `units` pieces of work that are kept one by one, 0 for none."""

    name: str
    words: Callable[[Place, Path], list[object]]
    units: int

    def start(self, place: Place, folder: Path, prepare: Callable[[], object] | None = None) -> ForkedCommand:
        folder.mkdir(parents=True, exist_ok=True)
        return ForkedCommand(self.words(place, folder), folder.with_suffix(".log"), prepare)


def _shards(place: Place, folder: Path) -> list[object]:
    return [
        "shards", "write", "--root", place.root / "photos", "--output", folder / "demo", "--settings", "num_shards=4", "--threads", "1",
    ]  # fmt: skip


def _sample(place: Place, folder: Path) -> list[object]:
    settings = {"kind": "s_ldm", "num_views": 3, "num_inference_steps": 3, "guidance_scale": 2.0, "batch_size": 3}
    return [
        "views", "make", "--settings", json.dumps(settings), "--shard", place.shard, "--input", f"generator={place.root / 'results/generators/g'}",
        "--output", folder / "s/00000.tar", "--work", folder / "work", "--runtime", MACHINE,
    ]  # fmt: skip


def _random(place: Place, folder: Path) -> list[object]:
    settings = '{"kind": "random", "num_views": 2}'
    return [
        "views", "make", "--settings", settings, "--shard", place.shard, "--output", folder / "r/00000.tar", "--runtime", MACHINE,
    ]  # fmt: skip


def _embed(place: Place, folder: Path) -> list[object]:
    return [
        "views", "embed", "--shard", place.shard, "--encoder", TINY_VIT, "--settings", '{"image_size": 48, "batch_size": 2}',
        "--output", folder / "near/00000.parquet", "--runtime", MACHINE,
    ]  # fmt: skip


def _index(place: Place, folder: Path) -> list[object]:
    return [
        "views", "index", "--embeddings", place.root / "results/embeddings/near", "--output", folder / "index.faiss", "--threads", "1",
    ]  # fmt: skip


def _score(place: Place, folder: Path) -> list[object]:
    return [
        "consistency", "score", "--real", place.shard, "--views", place.root / "results/views/s/00000.tar", "--encoder", TINY_VIT,
        "--source", "s", "--output", folder / "s/00000.parquet", "--work", folder / "work",
        "--settings", '{"image_size": 48, "batch_size": 4}', "--runtime", MACHINE,
    ]  # fmt: skip


def _pretrain(place: Place, folder: Path) -> list[object]:
    run = RUN.model_copy(update={"epochs": 8, "num_panels": 1, "effective_batch_size": 4, "num_anchors": 2})
    return [
        "pretrain", "run", "--shards", place.shard.parent, "--views", place.root / "results/views/s", "--settings", run.canonical_json(),
        "--output", folder / "seed0", "--work", folder / "work", "--runtime", MACHINE,
    ]  # fmt: skip


def _train_generator(place: Place, folder: Path) -> list[object]:
    return [
        "views", "train-generator", "--shards", place.shard.parent, "--encoder", ENCODER, "--output", folder / "g", "--work", folder / "work",
        "--settings", training_settings(num_steps=8).canonical_json(), "--runtime", MACHINE,
    ]  # fmt: skip


def _propagate(place: Place, folder: Path) -> list[object]:
    return [
        "propagation", "run", "davis", "--encoder", "pixels:8", "--root", place.root / "davis", "--output", folder / "p", "--work", folder / "work",
        "--settings", '{"input_size": [64, 96]}', "--strips", "--runtime", MACHINE,
    ]  # fmt: skip


def _summarise(place: Place, folder: Path) -> list[object]:
    return [
        "consistency", "summarise", "--output", folder / "summary.parquet", place.root / "results/consistency/s/00000.parquet",
    ]  # fmt: skip


STAGES = {
    stage.name: stage
    for stage in (
        Stage("shards write", _shards, 4), Stage("views make (s_ldm)", _sample, 24), Stage("views make (random)", _random, 0),
        Stage("views embed", _embed, 0), Stage("views index", _index, 0), Stage("consistency score", _score, 2),
        Stage("consistency summarise", _summarise, 0), Stage("pretrain run", _pretrain, 8), Stage("views train-generator", _train_generator, 5),
        Stage("propagation run", _propagate, 5),
    )
}  # fmt: skip


def build_place(root: Path) -> Place:
    """Everything that the stages read, made by the stages themselves where they make it."""
    place = Place(root)
    (root / "photos").mkdir(parents=True)
    for number in range(12):
        (root / f"photos/{number:02d}.jpg").write_bytes(image_bytes(number))
    place.shard.parent.mkdir(parents=True)
    write_shard(place.shard, KEYS)
    write_davis(root / "davis", ("one", "two", "three", "four", "five"), frames=3)
    for name, folder in (
        ("views train-generator", "generators"),
        ("views make (s_ldm)", "views"),
        ("views embed", "embeddings"),
        ("consistency score", "consistency"),
    ):
        command = STAGES[name].start(place, root / "results" / folder)
        assert command.end_with() == 0, command.log.read_text()
    return place


def contents(folder: Path) -> dict[str, str]:
    """Digest of every result below a folder, without what tells of time and machine: records, and columns and keys of that kind."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): _digest(path) for path in files if not path.name.endswith(RECORD_SUFFIX)}


def _digest(path: Path) -> str:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        kept = [name for name in table.column_names if name not in MACHINE_COLUMNS]
        return hashlib.sha256(json.dumps(table.select(kept).to_pylist(), default=str).encode()).hexdigest()
    if path.suffix == ".json":
        return json.dumps(_without(json.loads(path.read_text()), OUT_OF_RECORD))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without(value: object, names: tuple[str, ...]) -> object:
    if isinstance(value, dict):
        return {name: _without(item, names) for name, item in value.items() if name not in names}
    return value
