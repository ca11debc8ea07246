"""Frames to features: decode, resize, normalise, embed, each frame once (spec label_propagation 3.2, 3.3).

Shapes: B frames of a mini-batch, C = 3, H W input sides, N patches, D feature width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cdgmae.models.encoders.by_name import Encoder
from cdgmae.models.normalisation import normalise
from cdgmae.propagation.engine.resizing import resize_bilinear
from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.settings.protocol import InputSize
from cdgmae.storage.media.images import ImageError, decode_rgb

FRAMES_PER_BATCH = {"cpu": 1, "cuda": 8}
"""Frames embedded at once: a CPU gains nothing from more but needs the memory, a GPU fills up. Results differ by rounding alone."""

SHORTER_SIDE_STEP = 64


def input_sides(input_size: InputSize, height: int, width: int) -> tuple[int, int]:
    """(H, W) at which frames of `height` x `width` pixels are embedded.

    Two numbers are taken as they are. One number is the longer side; the shorter one keeps the aspect ratio and is rounded down
    to a multiple of 64, which distorts (1280x720 becomes 880x448). A square frame counts as upright.
    """
    if isinstance(input_size, tuple):
        return input_size
    if width > height:
        return int(height * input_size / width) // SHORTER_SIDE_STEP * SHORTER_SIDE_STEP, input_size
    return input_size, int(width * input_size / height) // SHORTER_SIDE_STEP * SHORTER_SIDE_STEP


def grid_of(sides: tuple[int, int], patch_size: int, origin: str) -> tuple[int, int]:
    """(rows, columns) of patches.

    Args:
        sides: (H, W) in pixels.
        patch_size: Side of a patch in pixels.
        origin: Whose input this is, for the message.

    Raises:
        ValueError: if a side is zero or not a multiple of the patch size, naming the nearest sides that fit.
    """
    if min(sides) < patch_size or any(side % patch_size for side in sides):
        below = "x".join(str(max(1, side // patch_size) * patch_size) for side in sides)
        above = "x".join(str(max(1, -(-side // patch_size)) * patch_size) for side in sides)
        choices = above if above == below else f"{below} or {above}"
        if not min(sides):
            choices = f"a larger number: the shorter side is rounded down to a multiple of {SHORTER_SIDE_STEP}"
        raise ValueError(
            f"input size {sides[0]}x{sides[1]} (height x width) of {origin} is not a multiple of the encoder's patch size {patch_size}; "
            f"set input_size (--settings input_size=...) to {choices}"
        )
    return sides[0] // patch_size, sides[1] // patch_size


def clip_grid(clip: LabelledClip, input_size: InputSize, patch_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(H, W) at which a clip is embedded, and (rows, columns) of its patches.

    Raises:
        ValueError: if a side is not a multiple of the patch size.
    """
    sides = input_sides(input_size, *clip.frame_size)
    return sides, grid_of(sides, patch_size, f"clip {clip.name}")


def read_frame(frame: Path | Image.Image) -> Tensor:
    """A frame, from its file or already decoded to RGB, as bytes (3, H, W).

    Raises:
        ValueError: if the file is missing or no image.
    """
    try:
        image = decode_rgb(frame.read_bytes()) if isinstance(frame, Path) else frame
    except (OSError, ImageError) as error:
        raise ValueError(f"frame {frame} cannot be read: {error}; copy it again from the data set's archive") from None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def embed_frames(
    frames: Sequence[Path | Image.Image], sides: tuple[int, int], encoder: Encoder, device: torch.device, precision: str = "fp32"
) -> Iterator[Tensor]:
    """Unit features (N, D), float32, of each frame in order; the next mini-batch is decoded while one is embedded.

    Args:
        frames: Frames in order, files or RGB images.
        sides: (H, W) to which frames are resized, as floats without antialiasing.
        encoder: Lies on `device`.
        device: Where frames are resized and embedded.
        precision: `fp32`, or `bf16` for the encoder's products; features are normalised in float32 either way.

    Raises:
        ValueError: if a frame cannot be read.
    """
    size = FRAMES_PER_BATCH[device.type]
    batches = [frames[start : start + size] for start in range(0, len(frames), size)]
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    with ThreadPoolExecutor(max_workers=size) as decoders:
        waiting = [decoders.submit(read_frame, frame) for frame in batches[0]]
        for following in [*batches[1:], []]:
            images = [resize_bilinear(decoded.result().to(device).float() / 255, sides) for decoded in waiting]
            waiting = [decoders.submit(read_frame, frame) for frame in following]
            with autocast:
                tokens_BTD = encoder.tokens(normalise(torch.stack(images)))
            yield from F.normalize(tokens_BTD[:, 1:].float(), dim=-1, eps=1e-12)
