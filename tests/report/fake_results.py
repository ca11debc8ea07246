"""A small made-up results tree, written through the real storage functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from cdgmae.consistency.consistency_summary import summarise
from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.propagation.benchmarks.benchmark import SIZE_COLUMNS
from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS
from cdgmae.propagation.measures.encoder_summary import SUMMARY_SCHEMA
from cdgmae.propagation.measures.score_table import table_schema
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import EncoderSettings, parse_encoder
from cdgmae.settings.report import ReportContents
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.files.atomic import write_bytes, write_text
from cdgmae.storage.image_shards import BAD, ImageRow, ImageShardWriter
from cdgmae.storage.media.images import encode_jpeg
from cdgmae.storage.tables import write_table
from cdgmae.training.metrics import METRICS_SCHEMA

ON_CPU = RuntimeSettings(device="cpu")

SIZE = 48
NASTY = '<script>alert("x")</script>'
PROTOCOL = json.dumps({"name": "label propagation", "top_k": 7})
Scores = dict[str, dict[str, float | None]]

SCORES: Scores = {
    "random": {"J&F": 30.0, "J": 31.0, "F": 29.0, "mIoU": 12.0, "PCK@0.1": 20.0, "PCK@0.2": 40.0},
    "crops": {"J&F": 34.25, "J": 35.0, "F": 33.5, "mIoU": 12.01, "PCK@0.1": 22.5, "PCK@0.2": 44.0},
    "cdg": {"J&F": 36.0, "J": 37.0, "F": 35.0, "mIoU": 14.0, "PCK@0.1": 18.75, "PCK@0.2": 39.0},
}

DAVIS_ORDER = {"random": ["clip0", "clip1", "clip2"], "crops": ["clip1", "clip2", "clip0"], "cdg": ["clip2", "clip0", "clip1"]}
"""Sequences of DAVIS from the lowest to the highest J&F of each encoder: 25, 35 and 45 percent."""


CONTENTS = ReportContents(
    datasets={"demo": 2}, views={"s_ldm": 2}, scored={"s_ldm": 2}, generators=["s_ldm"], runs={"crops": [0], "cdg": [0, 10]},
    encoders=list(SCORES), sets={"davis": "davis", "vip": "vip", "jhmdb": "jhmdb"},
)  # fmt: skip
"""What a configuration names of which `write_all` writes everything."""


@dataclass
class FakeResults:
    """Writes the files of one stage at a time below `root`."""

    root: Path

    def write_all(self) -> Path:
        """Every stage once."""
        self.write_images()
        self.write_scores()
        self.write_generator()
        self.write_runs()
        self.write_propagation(SCORES)
        return self.root

    def write_images(self, num_keys: int = 6, num_views: int = 2) -> None:
        """Two shards of real images with one bad input, and views that drift further from the real image from key to key."""
        random = np.random.default_rng(0)
        for shard in range(2):
            real_tar, view_tar = (self.root / folder / f"{shard:05d}.tar" for folder in ("shards/demo", "views/s_ldm"))
            with ImageShardWriter(real_tar) as real, ImageShardWriter(view_tar) as views:
                for index in range(num_keys):
                    key, image = f"n{shard}_{index}", _draw_image(random)
                    row = ImageRow(
                        key, 0, class_name="n0144", source_path=f"{key}.JPEG", extension="jpg", width=SIZE, height=SIZE
                    )
                    real.add_image(row, encode_jpeg(image, 90))
                    for view in range(1, num_views + 1):
                        changed = Image.blend(image, _draw_image(random), 0.1 * index + 0.05 * view)
                        made = ImageRow(
                            key,
                            view,
                            extension="jpg",
                            width=changed.width,
                            height=changed.height,
                            generator="s_ldm abc123",
                            sampler="ddim",
                            steps=20,
                            guidance=3.0,
                            seed=view,
                        )
                        views.add_image(made, encode_jpeg(changed, 90))
                if shard == 1:
                    real.add_failure(
                        ImageRow("n1_bad", 0, status=BAD, reason=f"corrupt or truncated image ({NASTY})", source_path=NASTY)
                    )
                    views.add_failure(ImageRow("n1_0", num_views + 1, status=BAD, reason="not finite"))
                for writer in (real, views):
                    writer.commit(settings_digest="made-up")

    def write_scores(self, **changes: Any) -> None:
        """Scores of both shards from raw pixels, and their summary."""
        folder, settings = self.root / "consistency", ScoringSettings(**{"image_size": SIZE, "max_bad_fraction": 0.5, **changes})
        tables = [folder / "s_ldm" / f"{shard:05d}.parquet" for shard in range(2)]
        for table in tables:
            tars = [self.root / stage / f"{table.stem}.tar" for stage in ("shards/demo", "views/s_ldm")]
            score_shard(settings, *tars, parse_encoder("pixels:8"), table, source="s_ldm", runtime=ON_CPU)
        summarise(tables, folder / "summary.parquet", folder / "summary.csv")

    def write_runs(self) -> None:
        """Two runs, one with two seeds."""
        for run, seed in (("crops", 0), ("cdg", 0), ("cdg", 10)):
            folder = self.root / "pretrain" / run / f"seed{seed}"
            settings = {"pretext": "crops" if run == "crops" else "cross_view", "source": "s_ldm", "num_anchors": 2, "epochs": 30}
            config: dict[str, Any] = {"settings": settings, "seed": seed, "version": "0.1.0", "num_bags": 240}
            write_text(folder / "config.json", json.dumps(config))
            self._write_metrics(folder / "metrics.parquet", 300, steps_per_epoch=10)
            self.write_panels(folder, [75, 150, 225, 300])

    def write_panels(self, folder: Path, steps: Sequence[int], size: tuple[int, int] = (440, 300)) -> None:
        """An image for each of these steps of a run, brighter from step to step."""
        for step in steps:
            path = folder / "panels" / f"step{step:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (min(255, step // 2), 90, 60)).save(path)

    def write_generator(self) -> None:
        """One trained generator."""
        folder = self.root / "generators" / "s_ldm"
        result = {"digest": "abc123", "provenance": {"version": "0.1.0", "seed": 0, "settings": {"num_steps": 400}}}
        write_text(folder / "cdgmae.json", json.dumps(result))
        self._write_metrics(folder / "metrics.parquet", 400, steps_per_epoch=None)

    def write_propagation(self, scores: Scores) -> None:
        """A summary with the given percentages of the sets named after their kinds, and one DAVIS table per encoder."""
        folder, summary = self.root / "propagation", []
        for encoder in scores:
            judged = parse_encoder(
                'random:{"depth":4}' if encoder == "random" else f"results/pretrain/{encoder}/seed0/encoder.safetensors"
            )
            common = {
                "encoder": encoder,
                "set": "davis",
                "kind": "davis",
                "item": 1,
                "item_name": "1",
                "frames": 14,
                "protocol": PROTOCOL,
                **dict.fromkeys(SIZE_COLUMNS, 64),
            }
            shares = {
                name: {"J_mean": 0.2 + 0.1 * place, "F_mean": 0.3 + 0.1 * place}
                for place, name in enumerate(DAVIS_ORDER[encoder])
            }
            rows = [{**common, **shares[name], "sequence": name, "encoder_digest": "d"} for name in ("clip0", "clip1", "clip2")]
            write_table(
                folder / encoder / "davis.parquet",
                rows,
                table_schema("davis"),
                extra={"encoder_settings": judged.model_dump(mode="json")},
            )
            summary += summary_of(encoder, judged, scores[encoder])
            self.write_strips(encoder, "davis", shares)
        write_table(folder / "summary.parquet", summary, SUMMARY_SCHEMA)

    def write_strips(self, encoder: str, name: str, sequences: Iterable[str]) -> None:
        """A strip of three frames of each sequence, and their index."""
        folder = self.root / "propagation" / encoder / "strips" / name
        for number, sequence in enumerate(sequences):
            image = Image.new("RGB", (308, 60), (40 * number, 120, 255 - 40 * number))
            write_bytes(folder / f"{sequence}.jpg", encode_jpeg(image, 75))
        write_text(folder / "strips.json", json.dumps({name: [0, 7, 13] for name in sequences}))

    def _write_metrics(self, path: Path, steps: int, steps_per_epoch: int | None) -> None:
        step = np.arange(steps)
        random = np.random.default_rng(steps)
        columns = {
            "step": step, "loss": 0.4 + 0.6 * np.exp(-step / 80) + random.normal(0, 0.02, steps), "learning_rate": np.full(steps, 1e-3),
            "grad_norm": np.ones(steps), "samples_per_second": np.full(steps, 512.5),
            "data_wait_share": np.full(steps, 0.02), "gpu_memory_mb": np.full(steps, 900.0),
        }  # fmt: skip
        table, schema = pa.table(columns), METRICS_SCHEMA
        if steps_per_epoch is not None:
            table = table.append_column("epoch", pa.array(step / steps_per_epoch))
            schema = schema.append(pa.field("epoch", pa.float64()))
        write_table(path, table, schema)


def summary_of(encoder: str, judged: EncoderSettings, scores: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Rows of the summary: of each kind of which any measure is given, all measures."""
    common = {"encoder": encoder, "unit": "percent", "sequences": 3, "scored_sizes": "64x64", "protocol": PROTOCOL,
              "encoder_settings": judged.canonical_json()}  # fmt: skip
    return [
        {**common, "set": kind, "kind": kind, "measure": measure.name, "value": scores.get(measure.name), "encoder_digest": "d"}
        for kind, benchmark in BENCHMARKS.items()
        if any(scores.get(measure.name) is not None for measure in benchmark.measures)
        for measure in benchmark.measures
    ]


def _draw_image(random: np.random.Generator) -> Image.Image:
    coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIZE + 16, SIZE), Image.Resampling.BICUBIC)
