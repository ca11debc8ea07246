"""One encoder on one clip set: every clip through the protocol, one table at the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cdgmae.models.encoders import Encoder, load_encoder
from cdgmae.propagation.clips import Clip
from cdgmae.propagation.frames import embed_frames, grid_of, input_sides
from cdgmae.propagation.layouts import read_clips
from cdgmae.propagation.memory import LabelMemory
from cdgmae.propagation.parts import PROTOCOL, PartFiles
from cdgmae.propagation.predictions import ClipOutputs
from cdgmae.propagation.schema import SIZE_COLUMNS, TABLE_SCHEMA
from cdgmae.propagation.scorers import SCORERS, Scorer
from cdgmae.propagation.scores import table_scores
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.settings.propagation import ProtocolSettings
from cdgmae.storage.tables import write_table

logger = logging.getLogger("cdgmae")


def run_propagation(
    clip_set: str,
    protocol: ProtocolSettings,
    encoder_reference: str,
    output: Path,
    *,
    device: torch.device,
    name: str | None = None,
    work_dir: Path | None = None,
    save_predictions: Path | None = None,
    overlays: Path | None = None,
    overlay_format: str = "gif",
    after_clip: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Propagate the labels of every clip's first frame with a frozen encoder and measure them.

    Args:
        clip_set: davis, vip or jhmdb.
        protocol: Where the clips lie and how labels are propagated.
        encoder_reference: As `cdgmae.models.encoders.load_encoder` takes it.
        output: Table to write (.parquet), see `cdgmae.propagation.schema.TABLE_SCHEMA`.
        device: Where the encoder and the affinities are computed.
        name: Encoder name in the table; the reference if left out.
        work_dir: Folder of part files: finished clips are found there again; they are removed once the table is written.
        save_predictions: Folder below which masks/ or joints/ are written.
        overlays: Folder below which overlays/SEQUENCE.gif or .mp4 are written.
        overlay_format: gif or mp4.
        after_clip: Called with a clip's name once its part is safe; may raise to stop the job.

    Returns:
        J&F, J, F (DAVIS), mIoU (VIP) or PCK@0.1 .. PCK@0.5 (JHMDB), all in percent.

    Raises:
        ValueError: if the clip set is not complete, the encoder cannot be loaded or the input size does not fit it.
    """
    outputs = ClipOutputs(save_predictions, overlays, overlay_format)
    clips = read_clips(clip_set, Path(protocol.root), protocol.resolution)
    encoder = load_encoder(encoder_reference, device=device)
    for clip in clips:
        grid_of(input_sides(protocol.input_size, *clip.picture), encoder.patch_size, f"clip {clip.name}")
    parts = PartFiles(work_dir, protocol.digest(), encoder.digest, outputs.key)
    rows = _clip_rows(clip_set, clips, encoder, protocol, parts, device, outputs, after_clip)
    full_protocol = {"name": PROTOCOL, **protocol.model_dump(mode="json")}
    common = {
        "encoder": name or encoder_reference,
        "clip_set": clip_set,
        "protocol": json.dumps(full_protocol, sort_keys=True),
        "encoder_digest": encoder.digest,
    }
    table_rows = [
        {**common, "sequence": clip.name, "frames": len(clip.frames), **row} for clip in clips for row in rows[clip.name]
    ]
    write_table(
        output, table_rows, TABLE_SCHEMA,
        settings_digest=protocol.digest(), inputs={encoder_reference: encoder.digest},
        extra={"protocol": full_protocol, "encoder": common["encoder"], "clip_set": clip_set},
    )  # fmt: skip
    parts.remove(clips)
    return table_scores(table_rows)


def _clip_rows(
    clip_set: str,
    clips: list[Clip],
    encoder: Encoder,
    protocol: ProtocolSettings,
    parts: PartFiles,
    device: torch.device,
    outputs: ClipOutputs,
    after_clip: Callable[[str], None] | None,
) -> Mapping[str, list[dict[str, Any]]]:
    """Rows of all clips by name: those of finished clips from their parts, the others computed."""
    rows = {clip.name: found for clip in clips if (found := parts.read(clip)) is not None}
    with ProgressMeter(f"propagation {clip_set}", len(clips), done=len(rows), unit="clips") as meter:
        for clip in clips:
            if clip.name in rows:
                continue
            sides = input_sides(protocol.input_size, *clip.picture)
            grid = grid_of(sides, encoder.patch_size, f"clip {clip.name}")
            scorer = SCORERS[clip_set](clip, sides, grid, outputs.wanted)
            evaluate_clip(clip, scorer, encoder, protocol, device)
            outputs.write(clip, scorer)
            sizes = dict(zip(SIZE_COLUMNS, (*sides, *scorer.scored_size), strict=True))
            rows[clip.name] = [{**row, **sizes} for row in scorer.rows()]
            parts.write(clip, rows[clip.name])
            meter.advance(note=clip.name)
            if after_clip is not None:
                after_clip(clip.name)
    return rows


def evaluate_clip(clip: Clip, scorer: Scorer, encoder: Encoder, protocol: ProtocolSettings, device: torch.device) -> None:
    """Stream one clip through encoder, memory and scorer; afterwards the scorer holds the results."""
    sides = input_sides(protocol.input_size, *clip.picture)
    grid = grid_of(sides, encoder.patch_size, f"clip {clip.name}")
    memory: LabelMemory | None = None
    # full float32 also on GPUs whose convolutions would otherwise round to 10 bits
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for frame, features_ND in enumerate(embed_frames(clip.frames, sides, encoder, device)):
            if memory is None:
                labels_NC = scorer.first_labels().to(device)
                memory = LabelMemory(features_ND, labels_NC, grid, protocol)
            else:
                labels_NC = memory.propagate(features_ND)
            scorer.add(frame, labels_NC)
