"""Consistency scoring against its bounds: `python perf/scoring.py [stage] [kernel] [tables]`, all three if none is named.

stage   images/s of the whole stage (shards on disk to table) over the encoder's forward pass alone on tensors in memory; goal 0.85.
kernel  peak memory of GS, LS and NPS on ViT-S/8 grids (784 patches), with and without the bound on the similarity matrix.
tables  seconds and peak memory of summary, query, keep, classes and compare over 5.1 M synthetic rows; goals 20 s, 2 GB, and 5 s for the query.
"""

from __future__ import annotations

import io
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image

from cdgmae.consistency.score_tables import METRICS, SCORE_SCHEMA
from cdgmae.consistency.scoring import score_shard as scoring
from cdgmae.consistency.scoring import scoring_loop
from cdgmae.consistency.scoring.pair_images import prepare_image
from cdgmae.consistency.scoring.similarities import global_similarity, local_similarity, nearest_patch_similarity
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.models.normalisation import normalise, pixels_to_tensor
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.image_shards import ImageRow, ImageShardWriter
from cdgmae.storage.tables import write_table

ON_CPU = RuntimeSettings(device="cpu")
ENCODER = "random:vit_base_patch16_224"
NUM_BAGS, NUM_VIEWS, BATCH_SIZE, ROUNDS = 16, 4, 16, 3
NUM_SHARDS, ROWS_PER_SHARD = 100, 51_000

MEASURE = """
import json, resource, subprocess, sys, time

started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, capture_output=True)
elapsed, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"seconds": elapsed, "cpu_seconds": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss / 1024}))
"""
"""Runs a command and measures it, in a process small enough that its own memory does not count."""


def draw_jpeg(seed: int) -> bytes:
    """A 256-pixel image with the detail of a photograph, as a generator would store it."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
    pixels = np.clip(np.asarray(coarse, dtype=np.int16) + random.integers(-12, 13, (256, 256, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def write_shard(path: Path, views: range) -> Path:
    """A shard with the given view indices of every bag."""
    with ImageShardWriter(path) as writer:
        for bag in range(NUM_BAGS):
            for view in views:
                row = ImageRow(f"k{bag:04d}", view, extension="jpg", width=256, height=256)
                writer.add_image(row, draw_jpeg(10 * bag + view))
        writer.commit(settings_digest="benchmark")
    return path


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure_stage(folder: Path) -> None:
    """Interleaved runs of the encoder alone and of the stage, with one loaded encoder."""
    real, views = write_shard(folder / "real.tar", range(1)), write_shard(folder / "views.tar", range(1, 1 + NUM_VIEWS))
    device, settings = torch.device("cpu"), ScoringSettings(batch_size=BATCH_SIZE)
    encoder = load_encoder(parse_encoder(ENCODER), device=device)
    num_images = NUM_BAGS * (1 + NUM_VIEWS)
    jpegs = [draw_jpeg(seed) for seed in range(BATCH_SIZE)]
    pixels_BCHW = normalise(pixels_to_tensor([prepare_image(data, settings.image_size) for data in jpegs]))

    def forward() -> None:
        for _ in range(num_images // BATCH_SIZE):
            encoder.tokens(pixels_BCHW)

    def stage() -> None:
        scoring.score_shard(
            settings, real, views, parse_encoder(ENCODER), folder / "scores.parquet", source="benchmark", runtime=ON_CPU
        )

    forward_seconds, stage_seconds = [], []
    with mock.patch.object(scoring_loop, "load_encoder", return_value=encoder):
        encoder.tokens(pixels_BCHW)
        for _ in range(ROUNDS):
            forward_seconds.append(seconds(forward))
            stage_seconds.append(seconds(stage))
    alone, whole = (num_images / statistics.median(times) for times in (forward_seconds, stage_seconds))
    print(
        f"stage: ViT-B/16, {torch.get_num_threads()} thread(s), torch {torch.__version__}: encoder alone {alone:.2f} images/s, "
        f"whole stage {whole:.2f}, ratio {whole / alone:.3f}"
    )


def measure_kernel() -> None:
    """Peak memory of the three scores of 64 pairs of 28 x 28 patches, each bound in a process of its own."""
    for name, bound in (("bounded", None), ("unbounded", 1 << 40)):
        peaks = run_python([__file__, "kernel-child", json.dumps(bound)])
        tokens = 2 * 64 * 785 * 384 * 4 / 2**20
        print(
            f"kernel: 64 pairs of 784 patches, {name}: {peaks['mib']:.0f} MiB above {tokens:.0f} MiB of tokens, {peaks['seconds']:.2f} s"
        )


def kernel_child(bound: int | None) -> dict[str, float]:
    """Scores of 64 pairs; memory above what is held before."""
    generator = torch.Generator().manual_seed(0)
    x_PTD, y_PTD = (torch.randn(64, 785, 384, generator=generator) for _ in range(2))
    before = peak_mib()
    options = {} if bound is None else {"max_similarities": bound}

    def score() -> None:
        global_similarity(x_PTD[:, 0], y_PTD[:, 0])
        local_similarity(x_PTD[:, 1:], y_PTD[:, 1:])
        nearest_patch_similarity(x_PTD[:, 1:], y_PTD[:, 1:], **options)

    elapsed = seconds(score)
    return {"mib": peak_mib() - before, "seconds": elapsed}


def write_tables(folder: Path, source: str, seed: int) -> None:
    """5.1 M rows in 100 tables of 12750 bags with 4 views and one of 1000 classes; the keys are those of every other source."""
    random, num_bags = np.random.default_rng(seed), ROWS_PER_SHARD // 4
    for shard in range(NUM_SHARDS):
        frame = pd.DataFrame(
            {"key": np.repeat([f"n{shard:08d}_{bag:06d}" for bag in range(num_bags)], 4), "view_a": 0, "status": "ok"}
        )
        frame["view_b"] = np.tile(np.arange(1, 5), num_bags)
        quality = np.repeat(random.normal(0, 0.05, num_bags), 4)
        for metric, mean in zip(METRICS, (0.95, 0.38, 0.79, 0.78), strict=True):
            frame[metric] = np.clip(mean + quality + random.normal(0, 0.05, ROWS_PER_SHARD), -1, 1)
        frame["class_name"] = np.repeat([f"n{number:08d}" for number in random.integers(0, 1000, num_bags)], 4)
        frame = frame.assign(source=source, encoder="abc", reason=None, nearest_patches=None, nearest_similarities=None)
        write_table(folder / source / f"{shard:05d}.parquet", pa.Table.from_pandas(frame, schema=SCORE_SCHEMA), SCORE_SCHEMA)


def measure_tables(folder: Path) -> None:
    """Each command in a process of its own, start of Python included; the baseline is reading the whole data set with pandas."""
    for seed, source in enumerate(("s_ldm", "knn")):
        write_tables(folder, source, seed)
    tables = [str(path) for path in sorted((folder / "s_ldm").glob("*.parquet"))]
    command = [sys.executable, "-m", "cdgmae.cli", "consistency"]
    baseline = f"import pandas; pandas.read_parquet({str(folder / 's_ldm')!r})"
    where = ["--results", str(folder), "--source", "s_ldm"]
    calls = {
        "pandas.read_parquet": [sys.executable, "-c", baseline],
        "summarise": [*command, "summarise", "--output", str(folder / "summary.parquet"), *tables],
        "query, few match": [*command, "query", "nps < 0.5 and gs > 0.95", *where, "--sort", "nps", "--limit", "20"],
        "query, all match": [*command, "query", "nps > -1", *where, "--sort", "nps", "--limit", "20"],
        "query, all match, all as CSV": [*command, "query", "nps > -1", *where, "--output", str(folder / "all.csv")],
        "query, all match, all as CSV, sorted": [
            *command,
            "query",
            "nps > -1",
            *where,
            "--sort",
            "nps",
            "--output",
            str(folder / "sorted.csv"),
        ],
        "keep --sweep": [*command, "keep", "--sweep", "nps", *where, "--num-anchors", "3"],
        "classes": [*command, "classes", "s_ldm", *where[:2]],
        "compare": [*command, "compare", "s_ldm", "knn", *where[:2]],
        "keep": [*command, "keep", "nps >= 0.7 and gs >= 0.9", *where, "--num-anchors", "3"],
    }
    for name, call in calls.items():
        used = run_python(["-c", MEASURE, *call])
        print(
            f"tables: {NUM_SHARDS * ROWS_PER_SHARD:,} rows, {name}: {used['seconds']:.1f} s ({used['cpu_seconds']:.1f} s of CPU), "
            f"peak {used['mib']:.0f} MiB"
        )


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_python(arguments: list[str]) -> dict[str, float]:
    """A new Python process; the JSON object that it prints last."""
    finished = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return result


def main(arguments: list[str]) -> None:
    """Measure what is asked for and print."""
    if arguments[:1] == ["kernel-child"]:
        print(json.dumps(kernel_child(json.loads(arguments[1]))))
        return
    chosen = arguments or ["stage", "kernel", "tables"]
    folder = Path(tempfile.mkdtemp())
    try:
        for name in chosen:
            {
                "stage": lambda: measure_stage(folder),
                "kernel": measure_kernel,
                "tables": lambda: measure_tables(folder / "tables"),
            }[name]()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
