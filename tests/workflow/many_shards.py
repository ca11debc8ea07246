"""A data set of tiny images in any number of shards, and every stage's command over it, each in a process of its own with few open files.

`python -m tests.workflow.many_shards FOLDER NUM_SHARDS NUM_IMAGES` prints exit code and memory of each command as JSON.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

OPEN_FILES, SIDE = 64, 16
ENCODER = 'random:{"image_size":16,"patch_size":8,"embed_dim":16,"depth":1,"num_heads":2}'
VIT = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
DECODER = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
UNET = {"block_out_channels": [8, 16], "attention_levels": [1], "layers_per_block": 1, "num_heads": 2, "cross_attention_dim": 8}
GENERATOR = {
    "dataset": "many", "encoder": {"timm": "unused"}, "encoder_image_size": 16, "image_size": 16, "unet": UNET, "num_steps": 2, "batch_size": 4,
    "autoencoder": {"kind": "patch_pca", "patch_size": 2, "latent_channels": 4}, "prediction_type": "v_prediction", "warmup_steps": 1,
}  # fmt: skip
PRETRAIN = {
    "source": "random", "pretext": "cross_view", "epochs": 1, "warmup_epochs": 0, "effective_batch_size": 500, "num_anchors": 1,
    "target_masking_ratio": 0.5, **VIT, **DECODER,
}  # fmt: skip


class Used(NamedTuple):
    """Exit code of a command, and megabytes of memory beyond those of its process at its start."""

    code: int
    megabytes: float


def commands(num_shards: int) -> Iterator[tuple[str, list[str]]]:
    """Name and words of every stage's command that reads many shards, in their order."""
    shards, views, scores = "results/shards/many", "results/views/random", "results/consistency/random"
    first, packing = f"{shards}/00000.tar", ["--settings", f"num_shards={num_shards}", "--settings", "resize=none"]
    yield "shards write", ["shards", "write", "--root", "images", "--output", shards, *packing]
    yield "shards summarise", ["shards", "summarise", "--manifest", f"{shards}/manifest.parquet", "--output", f"{shards}/summary.parquet",
                               "--settings", "path=images", *packing]  # fmt: skip
    yield "prepare", []
    for kind, given in (
        ("random", []), ("knn", ["--input", "index=results/embeddings/knn/index.faiss"]), ("folder", ["--settings", f"root={views}"]),
    ):  # fmt: skip
        if kind == "knn":
            yield (
                "views index",
                ["views", "index", "--embeddings", "results/embeddings/knn", "--output", "results/embeddings/knn/index.faiss"],
            )
        yield f"views make {kind}", ["views", "make", "--settings", f"kind={kind}", "--settings", "num_views=1", *given,
                                     "--shard", first, "--output", f"made/{kind}/00000.tar"]  # fmt: skip
    yield "views train-generator", ["views", "train-generator", "--settings", json.dumps(GENERATOR), "--shards", shards, "--encoder", ENCODER,
                                    "--output", "results/generators/g"]  # fmt: skip
    yield "consistency score", ["consistency", "score", "--real", first, "--views", f"{views}/00000.tar", "--encoder", "pixels:8",
                                "--settings", "image_size=16", "--source", "again", "--output", "made/scores.parquet"]  # fmt: skip
    named = json.dumps({"num_shards": {"random": num_shards}})
    yield "consistency summarise", ["consistency", "summarise", "--results", "results/consistency", "--settings", named,
                                    "--output", "results/consistency/summary.parquet"]  # fmt: skip
    yield "consistency query", ["consistency", "query", "nps > 0.5", "--results", "results/consistency"]
    yield "pretrain run", ["pretrain", "run", "--settings", json.dumps({**PRETRAIN, "view_filter": "nps > 0"}), "--shards", shards, "--views", views,
                           "--consistency", scores, "--output", "results/pretrain/run/seed0"]  # fmt: skip
    yield "propagation run", ["propagation", "run", "davis", "--settings", "root=DAVIS", "--settings", "input_size=32x48", "--encoder",
                              "pixels:8", "--name", "floor", "--output", "results/propagation/floor", "--strips"]  # fmt: skip
    yield "propagation summarise", ["propagation", "summarise", "--output", "results/propagation/summary.parquet",
                                    "results/propagation/floor/davis.parquet"]  # fmt: skip
    contents = {"datasets": {"many": num_shards}, "views": {"random": num_shards}, "scored": {"random": num_shards}, "generators": ["g"],
                "runs": {"run": [0]}, "encoders": ["floor"], "sets": {"davis": "davis"}}  # fmt: skip
    yield (
        "report write",
        [
            "report",
            "write",
            "--settings",
            json.dumps({"contents": contents}),
            "--results",
            "results",
            "--output",
            "results/report",
        ],
    )
    yield "export hub", ["export", "hub", "--bags", "random", "--config", "config.yaml", "--output", "made/bags"]
    yield "verify", ["verify", "results"]
    yield "status", ["status", "--config", "config.yaml"]


def draw(folder: Path, num_shards: int, num_images: int) -> None:
    """Images, two clips and a configuration."""
    from tests.propagation.drawn_clips import write_davis

    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number, pixels_HW3 in enumerate(random.integers(0, 256, (num_images, SIDE, SIDE, 3), dtype=np.uint8)):
        Image.fromarray(pixels_HW3).save(folder / f"images/k{number:05d}.jpg")
    write_davis(folder / "DAVIS")
    config = {
        "shards": {"datasets": {"many": {"path": "images", "num_shards": num_shards}}},
        "views": {"sources": {"random": {"kind": "random", "dataset": "many", "num_views": 1}}},
        "consistency": {"sources": ["random"], "encoder": {"pixels": 8}, "image_size": 16},
        "pretrain": {"runs": {"run": PRETRAIN}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def prepare() -> None:
    """What thousands of jobs would write: view shards, score tables and embeddings, beside the real shards."""
    from cdgmae.consistency.score_tables import SCORE_SCHEMA
    from cdgmae.storage.image_shards import OK, ImageRow, ImageShard, ImageShardWriter, find_shards
    from cdgmae.storage.tables import write_table
    from cdgmae.views.gathering.embedding import embedding_schema

    buffer, random = io.BytesIO(), np.random.default_rng(1)
    Image.new("RGB", (SIDE, SIDE), (9, 99, 200)).save(buffer, "JPEG")
    for tar in find_shards(Path("results/shards/many")):
        real = list(ImageShard(tar).rows(OK))
        with ImageShardWriter(Path("results/views/random") / tar.name) as writer:
            for row in real:
                writer.add_image(ImageRow(row.key, 1, extension="jpg", width=SIDE, height=SIDE), buffer.getvalue())
            writer.commit(settings_digest="test")
        keys = sorted(row.key for row in real)
        sums = {row.key: row.sha256 for row in real}
        scored = {
            "view_a": 0,
            "view_b": 1,
            "gs": 0.5,
            "ls": 0.5,
            "nps": 0.6,
            "nps_reverse": 0.6,
            "status": OK,
            "source": "random",
            "encoder": "e",
        }
        metadata: dict[str, Any] = {"kind": "random", "image_size": 16, "patch_size": 8}
        write_table(
            Path(f"results/consistency/random/{tar.stem}.parquet"),
            [{"key": key, **scored} for key in keys],
            SCORE_SCHEMA,
            extra=metadata,
        )
        table = pa.table({
            "key": keys, "sha256": [sums[key] for key in keys], "reason": pa.nulls(len(keys), pa.string()),
            "embedding": pa.array(list(random.normal(size=(len(keys), 8)).astype(np.float32)), pa.list_(pa.float32(), 8)),
        })  # fmt: skip
        write_table(Path(f"results/embeddings/knn/{tar.stem}.parquet"), table, embedding_schema(8), inputs={"encoder": "e"})


def run(words: list[str]) -> int:
    """Exit code of one command, or of `prepare`, in this process."""
    from cdgmae.cli import main

    sys.argv = ["cdgmae", *words]
    try:
        main() if words else prepare()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _memory(name: str) -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))


def run_alone(words: list[str]) -> Used:
    """One command in a process of its own that may open `OPEN_FILES` files."""
    reading, writing = os.pipe()
    if (process := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _memory("VmRSS")
        code = run(words)
        os.write(writing, json.dumps(Used(code, (_memory("VmHWM") - before) / 1000)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    _, status = os.waitpid(process, 0)
    return Used(*json.loads(text)) if text else Used(status, 0.0)


def main(folder: Path, num_shards: int, num_images: int) -> None:
    """Draw what is needed, run every command, print what each used."""
    import faiss  # noqa: F401  # what the commands import is there before they are forked
    import torch

    import cdgmae.pretrain.run
    import cdgmae.views.sampling.generator_sampler  # noqa: F401

    torch.set_num_threads(1)
    os.fsync = lambda _: None  # type: ignore[assignment]  # no power cut is tried here
    draw(folder, num_shards, num_images)
    os.chdir(folder)
    sys.stdout.write(json.dumps({name: run_alone(words) for name, words in commands(num_shards)}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
