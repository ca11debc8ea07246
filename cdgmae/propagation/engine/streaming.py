"""One clip through encoder, memory and scorer, frame by frame."""

from __future__ import annotations

import torch

from cdgmae.models.encoders.by_name import Encoder
from cdgmae.propagation.benchmarks.benchmark import Scorer
from cdgmae.propagation.engine.frames import clip_grid, embed_frames
from cdgmae.propagation.engine.label_memory import LabelMemory
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.settings.protocol import ClipProtocol


def stream_clip(clip: LabelledClip, scorer: Scorer, encoder: Encoder, protocol: ClipProtocol, device: torch.device) -> None:
    """Stream one clip through encoder, memory and scorer; afterwards the scorer holds the results."""
    sides, grid = clip_grid(clip, protocol.input_size, encoder.patch_size)
    memory: LabelMemory | None = None
    # full float32 also on GPUs whose convolutions would otherwise round to 10 bits
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for frame, features_ND in enumerate(embed_frames(clip.frames, sides, encoder, device, protocol.precision)):
            if memory is None:
                labels_NC = scorer.first_labels().to(device)
                memory = LabelMemory(features_ND, labels_NC, grid, protocol)
            else:
                labels_NC = memory.propagate(features_ND)
            scorer.add(frame, labels_NC)
