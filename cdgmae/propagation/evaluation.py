"""One encoder on one clip set: every clip through the protocol, one table at the end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch

from cdgmae.models.encoders.by_name import Encoder
from cdgmae.propagation.benchmarks.labelled_clip import Clip
from cdgmae.propagation.benchmarks.layouts import read_clips
from cdgmae.propagation.engine.clip_results import PROTOCOL, PartFiles
from cdgmae.propagation.engine.clip_workers import ClipWork, Rows, computed_clips, frozen_encoder
from cdgmae.propagation.engine.frames import grid_of, input_sides
from cdgmae.propagation.measures.score_schema import TABLE_SCHEMA
from cdgmae.propagation.measures.scores import table_scores
from cdgmae.propagation.output.clip_strips import collect_strips
from cdgmae.propagation.output.predictions import ClipOutputs
from cdgmae.runtime.compute import start_compute
from cdgmae.runtime.devices import worker_devices
from cdgmae.runtime.distribution import is_main_process, rank, world_size
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.encoder import EncoderSettings
from cdgmae.settings.propagation import ProtocolSettings
from cdgmae.settings.runtime import DEFAULT_RUNTIME, RuntimeSettings
from cdgmae.storage.tables import write_table

logger = logging.getLogger("cdgmae")

POLL_SECONDS = 0.5


def run_propagation(
    clip_set: str,
    protocol: ProtocolSettings,
    encoder_settings: EncoderSettings,
    output: Path,
    *,
    runtime: RuntimeSettings = DEFAULT_RUNTIME,
    name: str | None = None,
    work_dir: Path | None = None,
    save_predictions: Path | None = None,
    overlays: Path | None = None,
    overlay_format: str = "gif",
    strips: Path | None = None,
    after_clip: Callable[[str], None] | None = None,
    share: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Propagate the labels of every clip's first frame with a frozen encoder and measure them.

    Of several processes of one job each computes a share of the clips, and the first one waits for all and writes the table.

    Args:
        clip_set: davis, vip or jhmdb.
        protocol: Where the clips lie and how labels are propagated.
        encoder_settings: The encoder that is judged.
        output: Table to write (.parquet), see `cdgmae.propagation.measures.score_schema.TABLE_SCHEMA`.
        runtime: How to run here: one process per visible GPU, or `workers`; without either this process alone computes.
        name: Encoder name in the table; its short text form if left out.
        work_dir: Folder of part files: finished clips are found there again; they are removed once the table is written.
        save_predictions: Folder below which masks/ or joints/ are written.
        overlays: Folder below which overlays/SEQUENCE.gif or .mp4 are written.
        overlay_format: gif or mp4.
        strips: Folder for a strip of every clip, see `cdgmae.propagation.output.clip_strips`; needs a `work_dir`.
        after_clip: Called with a clip's name once its part is safe; may raise to stop the job.
        share: (k, n): compute only the clips k, k + n, k + 2n, ... and leave their parts in `work_dir`, without a table.

    Returns:
        J&F, J, F (DAVIS), mIoU (VIP) or PCK@0.1 .. PCK@0.5 (JHMDB), all in percent; for a share, and on other processes than the first,
        the number of its `clips`.

    Raises:
        ValueError: if the clip set is not complete, the encoder cannot be loaded, the input size does not fit it, the share is
            none, or strips are asked for without a `work_dir`.
    """
    if strips is not None and work_dir is None:
        raise ValueError("strips are kept in the work folder until all clips are done; give one (--work)")
    devices = worker_devices(start_compute(runtime, precision=protocol.precision, exact=True).device, runtime.workers)
    outputs = ClipOutputs(save_predictions, overlays, overlay_format, strips is not None)
    clips = read_clips(clip_set, Path(protocol.root), protocol.resolution)
    encoder = frozen_encoder(encoder_settings, devices[0] if len(devices) == 1 else torch.device("cpu"), protocol)
    for clip in clips:
        grid_of(input_sides(protocol.input_size, *clip.frame_size), encoder.patch_size, f"clip {clip.name}")
    parts = PartFiles(work_dir, protocol.digest(), encoder.digest, outputs.key)
    work = ClipWork(clip_set, protocol, encoder_settings, parts, outputs)
    if share is not None:
        chosen = _clips_of_share(clips, share, work_dir)
        _clip_rows(work, chosen, encoder, devices, after_clip)
        return {"clips": len(chosen)}
    if world_size() > 1:
        chosen = _clips_of_share(clips, (rank(), world_size()), work_dir)
        _clip_rows(work, chosen, encoder, devices, after_clip)
        if not is_main_process():
            return {"clips": len(chosen)}
        _wait_for_parts(parts, clips, after_clip)
    rows = _clip_rows(work, clips, encoder, devices, after_clip)
    full_protocol = {"name": PROTOCOL, **protocol.model_dump(mode="json")}
    common = {
        "encoder": name or encoder_settings.text,
        "clip_set": clip_set,
        "protocol": json.dumps(full_protocol, sort_keys=True),
        "encoder_digest": encoder.digest,
    }
    table_rows = [
        {**common, "sequence": clip.name, "frames": len(clip.frames), **row} for clip in clips for row in rows[clip.name]
    ]
    if strips is not None:
        collect_strips(clips, parts, strips)
    write_table(
        output, table_rows, TABLE_SCHEMA,
        settings_digest=protocol.digest(), inputs={encoder_settings.text: encoder.digest},
        extra={
            "protocol": full_protocol, "encoder": common["encoder"], "encoder_settings": encoder_settings.model_dump(mode="json"),
            "clip_set": clip_set,
        },
    )  # fmt: skip
    scores = table_scores(table_rows)
    parts.remove(clips)
    return scores


def _clips_of_share(clips: list[Clip], share: tuple[int, int], work_dir: Path | None) -> list[Clip]:
    part, num_parts = share
    if not 0 <= part < num_parts:
        raise ValueError(f"share {part}/{num_parts}: give K/N with K from 0 to N - 1")
    if work_dir is None:
        raise ValueError(f"share {part}/{num_parts}: a work folder is needed, where the shares of a clip set meet")
    return clips[part::num_parts]


def _wait_for_parts(parts: PartFiles, clips: Sequence[Clip], after_clip: Callable[[str], None] | None) -> None:
    """Until the other processes have finished their clips; a launcher ends this process if one of them fails."""
    for clip in clips:
        while parts.read(clip) is None:
            if after_clip is not None:
                after_clip("of this process's share")
            time.sleep(POLL_SECONDS)


def _clip_rows(
    work: ClipWork,
    clips: list[Clip],
    encoder: Encoder,
    devices: Sequence[torch.device],
    after_clip: Callable[[str], None] | None,
) -> Mapping[str, Rows]:
    """Rows of all clips by name: those of finished clips from their parts, the others computed."""
    rows = {clip.name: found for clip in clips if (found := work.parts.read(clip)) is not None}
    missing = [clip for clip in clips if clip.name not in rows]
    with (
        ProgressMeter(f"propagation {work.clip_set}", len(clips), done=len(rows), unit="clips") as meter,
        closing(computed_clips(work, missing, encoder, devices[: max(1, len(missing))])) as computed,
    ):
        for clip, found in computed:
            rows[clip.name] = found
            meter.advance(note=clip.name)
            if after_clip is not None:
                after_clip(clip.name)
    return rows
