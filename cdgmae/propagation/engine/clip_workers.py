"""Clips as independent work items: computed here, or by several processes on several devices."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from cdgmae.models.encoders.by_name import Encoder, load_encoder
from cdgmae.models.onednn import freeze_to_onednn
from cdgmae.propagation.benchmarks.benchmark import EvaluationSequence
from cdgmae.propagation.benchmarks.registry import EvaluationSet, benchmark_of
from cdgmae.propagation.engine.clip_results import PartFiles
from cdgmae.propagation.output.predictions import ClipOutputs
from cdgmae.runtime.devices import limit_threads
from cdgmae.runtime.interrupts import TransientProblem
from cdgmae.runtime.out_of_memory import explain_memory
from cdgmae.settings.encoder import EncoderSettings

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ClipWork:
    """What is done with every clip or other sequence; travels to the worker processes.

    Attributes:
        protocol: Settings of the evaluation set.
        encoder_settings: The frozen encoder.
        parts: Where the rows of finished sequences are kept.
        outputs: What is written besides.
    """

    protocol: EvaluationSet
    encoder_settings: EncoderSettings
    parts: PartFiles
    outputs: ClipOutputs

    def rows(self, clip: EvaluationSequence, encoder: Encoder, device: torch.device) -> Rows:
        """Rows of one clip, computed unless another process has finished it meanwhile; its part and outputs are written."""
        with self.parts.claim(clip):
            finished = self.parts.read(clip)
            if finished is not None:
                return finished
            painted = self.outputs.painted(clip.num_painted)
            with explain_memory(
                device, "runtime.workers where processes share a GPU, or queue_length or input_size of the evaluation set"
            ):
                predictions = benchmark_of(self.protocol.kind).evaluate(clip, self.protocol, encoder, device, painted)
            self.outputs.write(clip, predictions, self.parts)
            rows = predictions.rows()
            self.parts.write(clip, rows)
            return rows


def frozen_encoder(settings: EncoderSettings, device: torch.device, protocol: EvaluationSet) -> Encoder:
    """The encoder on its device, its float32 products on a CPU left to oneDNN."""
    encoder = load_encoder(settings, device=device)
    if protocol.precision == "fp32":
        freeze_to_onednn(encoder)
    return encoder


def computed_clips(
    work: ClipWork, clips: Sequence[EvaluationSequence], encoder: Encoder, devices: Sequence[torch.device]
) -> Generator[tuple[EvaluationSequence, Rows]]:
    """Clips and their rows as they are finished.

    With one device clips are computed here, in order; with more, by one process per device, longest clips first. When the consumer
    stops early (close the generator), no new clip is begun and the running ones are finished, so that their parts remain.

    Args:
        work: What to do with a clip.
        clips: Clips to compute.
        encoder: The loaded encoder; used only where there is one device.
        devices: One per process; a device may stand there several times.

    Raises:
        ValueError: as soon as one clip fails, or a process ends without a word.
    """
    if len(devices) == 1:
        for clip in clips:
            yield clip, work.rows(clip, encoder, devices[0])
        return
    try:
        yield from _from_pool(work, sorted(clips, key=lambda clip: -clip.num_frames), devices)
    except BrokenProcessPool:
        raise TransientProblem(
            f"one of {len(devices)} worker processes was killed, most often for lack of memory; finished clips are kept: "
            "run the same command again, with a lower runtime.workers if memory was short"
        ) from None


def _from_pool(
    work: ClipWork, clips: Sequence[EvaluationSequence], devices: Sequence[torch.device]
) -> Generator[tuple[EvaluationSequence, Rows]]:
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
    places = context.SimpleQueue()
    for device in devices:
        places.put(str(device))
    threads = max(1, torch.get_num_threads() // len(devices))
    waiting, running = deque(clips), dict[Future[Rows], EvaluationSequence]()
    with ProcessPoolExecutor(
        len(devices), mp_context=context, initializer=_start_worker, initargs=(work, places, threads)
    ) as pool:
        while waiting or running:
            while waiting and len(running) < len(devices):  # nothing is queued ahead, so that stopping early is quick
                clip = waiting.popleft()
                running[pool.submit(_worker_rows, clip)] = clip
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


_STATE: dict[str, Any] = {}
"""What a worker process keeps from clip to clip: work, encoder, device."""


def _start_worker(work: ClipWork, places: SimpleQueue[str], threads: int) -> None:
    """Set up a worker process: signals, threads, device, encoder."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # sent to all processes of a job; the parent decides what they mean
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(threads)
    device = torch.device(places.get())
    _STATE.update(work=work, device=device, encoder=frozen_encoder(work.encoder_settings, device, work.protocol))


def _end_with_parent() -> None:
    """A killed parent leaves no workers behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _worker_rows(clip: EvaluationSequence) -> Rows:
    rows: Rows = _STATE["work"].rows(clip, _STATE["encoder"], _STATE["device"])
    return rows
