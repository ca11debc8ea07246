"""One clip through encoder, memory and scorer, frame by frame. Shapes: N cells of the grid, C labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cdgmae.models.encoders.by_name import Encoder
from cdgmae.propagation.benchmarks.benchmark import Scorer
from cdgmae.propagation.engine.frames import clip_grid, embed_frames
from cdgmae.propagation.engine.label_memory import LabelMemory
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.settings.protocol import ClipProtocol


def stream_clip(clip: LabelledClip, scorer: Scorer, encoder: Encoder, protocol: ClipProtocol, device: torch.device) -> None:
    """Stream one clip through encoder, memory and scorer; afterwards the scorer holds the results."""
    sides, grid = clip_grid(clip, protocol.input_size, encoder.patch_size)
    stream_frames(clip.frames, sides, grid, scorer.first_labels(), scorer.add, encoder, protocol, device)


def stream_frames(
    frames: Sequence[Path | Image.Image],
    sides: tuple[int, int],
    grid: tuple[int, int],
    first_labels_NC: Tensor,
    add: Callable[[int, Tensor], None],
    encoder: Encoder,
    protocol: ClipProtocol,
    device: torch.device,
) -> None:
    """Propagate the labels of frame 0 to all later frames.

    Args:
        frames: Frames in order, files or RGB images.
        sides: (H, W) of the encoder's input.
        grid: (rows, columns) of patches at these sides.
        first_labels_NC: Soft labels of frame 0.
        add: Told the number of each frame, from 0, and its soft labels (N, C), in order.
        encoder: On `device`.
        protocol: How labels travel; the precision of the encoder.
        device: Where to compute.
    """
    memory: LabelMemory | None = None
    # full float32 also on GPUs whose convolutions would otherwise round to 10 bits
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for frame, features_ND in enumerate(embed_frames(frames, sides, encoder, device, protocol.precision)):
            if memory is None:
                labels_NC = first_labels_NC.to(device)
                memory = LabelMemory(features_ND, labels_NC, grid, protocol)
            else:
                labels_NC = memory.propagate(features_ND)
            add(frame, labels_NC)
