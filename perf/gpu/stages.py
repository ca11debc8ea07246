"""One run of sampling, scoring and propagation each, on drawn inputs and with random weights, on any device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from cdgmae.consistency.scoring.score_shard import score_shard
from cdgmae.generators.generator_folder import Generator, GeneratorMetadata
from cdgmae.generators.pipeline import LatentDiffusionPipeline
from cdgmae.models.encoders.by_name import load_encoder
from cdgmae.propagation.benchmarks.davis import DavisProtocol
from cdgmae.propagation.engine.clip_workers import frozen_encoder
from cdgmae.propagation.engine.streaming import stream_clip
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.propagation.measures.object_scorer import ObjectScorer
from cdgmae.runtime.compute import set_float32_meaning
from cdgmae.settings.consistency import ScoringSettings
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.settings.views import SamplingSettings
from cdgmae.views.sampling.generator_sampler import DTYPES, GeneratorSampler

SMALL_ENCODER = 'random:{"image_size":64,"patch_size":16,"embed_dim":384,"depth":2,"num_heads":6}'


def open_sampler(
    pipeline: LatentDiffusionPipeline, device: torch.device, precision: str, *, compiled: bool = False, **settings: Any
) -> GeneratorSampler:
    """A sampler of the pipeline, which belongs to it from here on; `settings` are keys of `SamplingSettings`."""
    set_float32_meaning(device, precision)
    for part in (pipeline.unet, pipeline.projector, pipeline.autoencoder):
        torch.nn.Module.to(part, device)  # type: ignore[arg-type]
    side = 4 * int(pipeline.unet.config["sample_size"])
    encoder = load_encoder(parse_encoder(SMALL_ENCODER), device=device)
    generator = Generator(pipeline, encoder, GeneratorMetadata("", None, "", 64, side, {}))
    return GeneratorSampler(generator, SamplingSettings.from_plain(settings), DTYPES[precision], device, compiled=compiled)


def draw_views(sampler: GeneratorSampler, rows: int) -> np.ndarray:
    """Pixels (rows, 1, S, S, 3) of views of one drawn image, seeds 0, 1, ..."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    conditions = sampler.conditions([image]).expand(rows, -1)
    return sampler.views(conditions, list(range(rows)), lambda: None).pixels_BVHW3


def score(bags: Path, encoder: str, image_size: int, device: str, precision: str, output: Path) -> tuple[pd.DataFrame, float]:
    """The score table of drawn bags, and the seconds that its stage took."""
    runtime, started = RuntimeSettings(device=device, precision=precision), time.perf_counter()  # type: ignore[arg-type]
    score_shard(
        ScoringSettings(image_size=image_size), bags / "shards/00000.tar", bags / "views/00000.tar", parse_encoder(encoder), output,
        source="drawn", runtime=runtime,
    )  # fmt: skip
    return pd.read_parquet(output), time.perf_counter() - started


class Propagation:
    """Label propagation of a clip with an encoder of random weights."""

    def __init__(
        self, clip: LabelledClip, encoder: str, sides: tuple[int, int], device: torch.device, precision: str = "fp32"
    ) -> None:
        """Load the encoder.

        Args:
            clip: The clip.
            encoder: See `parse_encoder`.
            sides: (H, W) of the encoder's input.
            device: Where to compute.
            precision: Of the encoder.
        """
        set_float32_meaning(device, precision)
        self.clip, self.device, self.sides = clip, device, sides
        self.protocol = DavisProtocol(root="", input_size=sides, precision=precision)  # type: ignore[arg-type]
        self.encoder = frozen_encoder(parse_encoder(encoder), device, self.protocol)

    def run(self, painted: range = range(0)) -> ObjectScorer:
        """Propagate once; the result holds the masks of the frames in `painted` and the measures of all."""
        grid = (self.sides[0] // self.encoder.patch_size, self.sides[1] // self.encoder.patch_size)
        scorer = ObjectScorer(self.clip, self.sides, grid, painted)
        stream_clip(self.clip, scorer, self.encoder, self.protocol, self.device)
        return scorer
