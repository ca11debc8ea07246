"""Clips as independent work items: computed here, or by several processes on several devices."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch

from cdgmae.models.encoders.by_name import Encoder, load_encoder
from cdgmae.models.onednn import freeze_to_onednn
from cdgmae.propagation.benchmarks.benchmark import EvaluationSequence
from cdgmae.propagation.benchmarks.benchmark_kinds import EvaluationSet, benchmark_of
from cdgmae.propagation.engine.clip_results import ClipResults, Rows
from cdgmae.propagation.output.predictions import ClipOutputs
from cdgmae.runtime.out_of_memory import explain_memory
from cdgmae.runtime.pool import share_out
from cdgmae.settings.encoder import EncoderSettings


@dataclass(frozen=True, slots=True)
class ClipWork:
    """What is done with every clip or other sequence; travels to the worker processes.

    Attributes:
        protocol: Settings of the evaluation set.
        encoder_settings: The frozen encoder.
        results: Where the rows of finished sequences are kept.
        outputs: What is written besides.
    """

    protocol: EvaluationSet
    encoder_settings: EncoderSettings
    results: ClipResults
    outputs: ClipOutputs

    def rows(self, clip: EvaluationSequence, encoder: Encoder, device: torch.device) -> Rows:
        """Rows of one clip, computed unless another process has finished it meanwhile; its result and outputs are written."""
        with self.results.claim(clip) as store:
            finished = self.results.read(clip)
            if finished is not None:
                return finished
            painted = self.outputs.painted(clip.num_painted)
            with explain_memory(
                device, "runtime.workers where processes share a GPU, or queue_length or input_size of the evaluation set"
            ):
                predictions = benchmark_of(self.protocol.kind).evaluate(clip, self.protocol, encoder, device, painted)
            strip = self.outputs.write(clip, predictions)
            rows = predictions.rows()
            store(rows, strip)
            return rows


def frozen_encoder(settings: EncoderSettings, device: torch.device, protocol: EvaluationSet) -> Encoder:
    """The encoder on its device, its float32 products on a CPU left to oneDNN."""
    return prepare_encoder(load_encoder(settings, device=device), protocol)


def prepare_encoder(encoder: Encoder, protocol: EvaluationSet) -> Encoder:
    """See `frozen_encoder`; of an encoder that is loaded; its layers change their kind."""
    if protocol.precision == "fp32":
        freeze_to_onednn(encoder)
    return encoder


def computed_clips(
    work: ClipWork, clips: Sequence[EvaluationSequence], encoder: Encoder, devices: Sequence[torch.device]
) -> Generator[tuple[EvaluationSequence, Rows]]:
    """Clips and their rows as they are finished.

    With one device clips are computed here, in order; with more, by one process per device, longest clips first. When the consumer
    stops early (close the generator), no new clip is begun and the running ones are finished, so that their results remain.

    Args:
        work: What to do with a clip.
        clips: Clips to compute.
        encoder: The loaded encoder; used only where there is one device.
        devices: One per process; a device may stand there several times.

    Raises:
        ValueError: as soon as one clip fails; clips of a process that was killed go to the others.
    """
    if len(devices) == 1:
        for clip in clips:
            yield clip, work.rows(clip, encoder, devices[0])
        return
    ordered = sorted(clips, key=lambda clip: -clip.num_frames)
    pool = share_out(
        partial(_compute_clips, work, ordered),
        len(ordered),
        devices,
        name="propagation",
        threads=torch.get_num_threads(),
        fail_fast=True,
    )
    with closing(pool):
        for number, rows in pool:
            yield ordered[number], rows


def _compute_clips(
    work: ClipWork,
    clips: Sequence[EvaluationSequence],
    _slot: int,
    device: torch.device,
    numbers: Iterator[int],
    _stop_reason: Callable[[], str | None],
    finished: Callable[[int, Rows], None],
) -> None:
    """What one of several processes does: see `cdgmae.runtime.pool.PoolWork`."""
    encoder = frozen_encoder(work.encoder_settings, device, work.protocol)
    for number in numbers:
        finished(number, work.rows(clips[number], encoder, device))
