"""One encoder on one evaluation set: every sequence through the protocol, one table at the end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cdgmae.models.encoders.by_name import Encoder, load_encoder
from cdgmae.models.encoders.encoder_cost import EncoderCost, encoder_cost
from cdgmae.propagation.benchmarks.benchmark import EvaluationSequence
from cdgmae.propagation.benchmarks.benchmark_kinds import EvaluationSet, benchmark_of, table_scores
from cdgmae.propagation.engine.clip_results import ClipResults, Rows
from cdgmae.propagation.engine.clip_workers import ClipWork, computed_clips, prepare_encoder
from cdgmae.propagation.measures.score_table import check_fractions, table_schema
from cdgmae.propagation.output.clip_strips import collect_strips
from cdgmae.propagation.output.predictions import ClipOutputs
from cdgmae.runtime.compute import start_compute
from cdgmae.runtime.devices import worker_devices
from cdgmae.runtime.distribution import is_main_process, rank, world_size
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.storage.files.publishing import once_recorded
from cdgmae.storage.tables import write_table

logger = logging.getLogger("cdgmae")

POLL_SECONDS = 0.5


def run_propagation(
    protocol: EvaluationSet,
    encoder_settings: EncoderSettings,
    output: Path,
    *,
    runtime: RuntimeSettings = DEFAULT_RUNTIME,
    name: str | None = None,
    seed: int | None = None,
    set_name: str | None = None,
    work_dir: Path | None = None,
    save_predictions: Path | None = None,
    overlays: Path | None = None,
    overlay_format: str = "gif",
    strips: Path | None = None,
    after_clip: Callable[[str], None] | None = None,
    share: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Measure a frozen encoder on an evaluation set.

    Of several processes of one job each computes a share of the clips, and the first one waits for all and writes the table.

    Args:
        protocol: The set's kind, where it lies and how it is measured.
        encoder_settings: The encoder that is judged.
        output: Table to write (.parquet), see `cdgmae.propagation.measures.score_table.table_schema`.
        runtime: How to run here: one process per visible GPU, or `workers`; without either this process alone computes.
        name: Encoder name in the table; its short text form if left out.
        seed: Of the run that trained the encoder, for the table.
        set_name: The set's name in the table; its kind if left out.
        work_dir: Folder of the journal: finished clips are found there again; they are removed once the table is written.
        save_predictions: Folder below which masks/ or joints/ are written.
        overlays: Folder below which overlays/SEQUENCE.gif or .mp4 are written.
        overlay_format: gif or mp4.
        strips: Folder for a strip of every clip, see `cdgmae.propagation.output.clip_strips`; needs a `work_dir`.
        after_clip: Called with a clip's name once its result is safe; may raise to stop the job.
        share: (k, n): compute only the clips k, k + n, k + 2n, ... and leave their results in `work_dir`, without a table.

    Returns:
        Measure -> value, e.g. J&F, J and F; for a share, and on other processes than the first, the number of its `clips`.

    Raises:
        ValueError: if the set is not complete, the encoder cannot be loaded, the input size does not fit it, the share is
            none, or strips are asked for without a `work_dir`.
    """
    if strips is not None and work_dir is None:
        raise ValueError("strips are kept in the work folder until all clips are done; give one (--work)")
    devices = worker_devices(start_compute(runtime, precision=protocol.precision, exact=True).device, runtime.workers)
    outputs = ClipOutputs(save_predictions, overlays, overlay_format, strips is not None)
    labels = {"encoder": name or encoder_settings.text, "seed": seed, "set": set_name or protocol.kind}
    benchmark = benchmark_of(protocol.kind)
    clips = benchmark.read(protocol)
    encoder = load_encoder(encoder_settings, device=devices[0] if len(devices) == 1 else torch.device("cpu"))
    cost = encoder_cost(encoder)
    prepare_encoder(encoder, protocol)
    benchmark.check_input(clips, protocol, encoder.patch_size)
    results = ClipResults(work_dir, benchmark.rules, protocol.digest(), encoder.digest, outputs.key)
    work = ClipWork(protocol, encoder_settings, results, outputs)
    chosen = _clips_of_share(clips, share or (rank(), world_size()), work_dir)
    if share is not None or len(chosen) < len(clips):
        _clip_rows(work, chosen, encoder, devices, after_clip)
        if share is not None or not is_main_process():
            return {"clips": len(chosen)}
        _wait_for_results(work.results, clips, after_clip)
    rows = _clip_rows(work, clips, encoder, devices, after_clip)
    if strips is not None:
        collect_strips(clips, work.results, strips)
    scores = _write_rows(output, work, labels, encoder.digest, cost, [(clip, rows[clip.name]) for clip in clips])
    once_recorded(partial(work.results.remove, clips))
    return scores


def _write_rows(
    output: Path,
    work: ClipWork,
    labels: Mapping[str, Any],
    encoder_digest: str,
    cost: EncoderCost,
    rows: Sequence[tuple[EvaluationSequence, Rows]],
) -> dict[str, float]:
    """Write the table of all sequences; their scores."""
    protocol = {"name": benchmark_of(work.protocol.kind).rules, **work.protocol.model_dump(mode="json")}
    common = {
        **labels, "kind": work.protocol.kind, "protocol": json.dumps(protocol, sort_keys=True), "encoder_digest": encoder_digest
    }  # fmt: skip
    table_rows = [
        {**common, "sequence": clip.name, "frames": clip.num_frames, **row} for clip, clip_rows in rows for row in clip_rows
    ]
    check_fractions(work.protocol.kind, table_rows)
    write_table(
        output, table_rows, table_schema(work.protocol.kind),
        settings_digest=work.protocol.digest(), inputs={work.encoder_settings.text: encoder_digest},
        extra={"protocol": protocol, "encoder_settings": work.encoder_settings.model_dump(mode="json"), "encoder_cost": asdict(cost), **labels},
    )  # fmt: skip
    return table_scores(table_rows)


def _clips_of_share(clips: list[EvaluationSequence], share: tuple[int, int], work_dir: Path | None) -> list[EvaluationSequence]:
    """The clips k, k + n, k + 2n, ... of share (k, n)."""
    part, num_parts = share
    if not 0 <= part < num_parts:
        raise ValueError(f"share {part}/{num_parts}: give K/N with K from 0 to N - 1")
    if num_parts > 1 and work_dir is None:
        raise ValueError(f"share {part}/{num_parts}: a work folder is needed, where the shares of a set meet")
    return clips[part::num_parts]


def _wait_for_results(
    results: ClipResults, clips: Sequence[EvaluationSequence], after_clip: Callable[[str], None] | None
) -> None:
    """Until the other processes have finished their clips; a launcher ends this process if one of them fails."""
    for clip in clips:
        while results.read(clip) is None:
            if after_clip is not None:
                after_clip("of this process's share")
            time.sleep(POLL_SECONDS)


def _clip_rows(
    work: ClipWork,
    clips: list[EvaluationSequence],
    encoder: Encoder,
    devices: Sequence[torch.device],
    after_clip: Callable[[str], None] | None,
) -> Mapping[str, Rows]:
    """Rows of all clips by name: those of finished clips from the journal, the others computed."""
    rows = {clip.name: clip_rows for clip in clips if (clip_rows := work.results.read(clip)) is not None}
    missing = [clip for clip in clips if clip.name not in rows]
    with (
        ProgressMeter(f"propagation {work.protocol.kind}", len(clips), done=len(rows), unit="clips") as meter,
        closing(computed_clips(work, missing, encoder, devices[: max(1, len(missing))])) as computed,
    ):
        for clip, clip_rows in computed:
            rows[clip.name] = clip_rows
            meter.advance(note=clip.name)
            if after_clip is not None:
                after_clip(clip.name)
    return rows
