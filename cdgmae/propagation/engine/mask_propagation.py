"""A mask through a list of frames, without an evaluation set: what the stage computes, for a notebook.

Shapes: F frames, H W their sides, N cells of the grid, C labels.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdgmae.models.encoders.frozen_encoder import Encoder, given_encoder
from cdgmae.models.normalisation import Images, to_images
from cdgmae.propagation.engine.frames import grid_of, input_sides
from cdgmae.propagation.engine.resizing import resize_nearest
from cdgmae.propagation.engine.streaming import stream_frames
from cdgmae.propagation.layouts.image_files import show_size
from cdgmae.propagation.measures.masks import Annotation, decode_labels, first_labels, label_order, to_annotation, without_void
from cdgmae.settings.protocol import ClipProtocol, InputSize


def propagate(
    frames: Images,
    mask: Image.Image | Tensor,
    encoder: Encoder,
    *,
    input_size: InputSize | None = None,
    top_k: int = 7,
    queue_length: int = 20,
    radius: float = 20.0,
    temperature: float = 0.7,
    precision: str = "fp32",
) -> Tensor:
    """Carry the ids of the first frame's mask to all later frames (paper, section 4.1; spec label_propagation 3.4).

    Args:
        frames: A clip, in order; all frames of one size.
        mask: Ids of the first frame's pixels, of its size: a palette, grey or black-and-white image, or a tensor (H, W) of whole
            numbers in 0..255 or of truth values. 0 is the background; 255 belongs to nobody and comes back as 0.
        encoder: What sees the frames; `load_encoder` gives one.
        input_size: (height, width) at which frames are embedded, or one number for the longer side as in section `propagation`; None takes
            the frames' own sides, brought to the nearest multiples of the patch size.
        top_k: Most similar patches that vote. Paper: 7.
        queue_length: Frames besides the first that are looked at. Paper: 20.
        radius: How far, in patches, a patch of the queue may lie. Paper: 20.
        temperature: Of the softmax over the votes. CropMAE: 0.7.
        precision: Arithmetic of the encoder, fp32 or bf16.

    Returns:
        Ids (F, H, W), uint8, on the CPU; those of the first frame are the given ones.

    Raises:
        ValueError: if frames or mask are none, differ in size, or a setting is out of range.
    """
    images = to_images(frames, "frames")
    width, height = images[0].size
    first = _annotation(mask)
    for what, size in [*((f"frame {n}", image.size[::-1]) for n, image in enumerate(images)), ("the mask", first.ids_HW.shape)]:
        if size != (height, width):
            raise ValueError(
                f"{what} has {show_size(size)} pixels, frame 0 has {show_size((height, width))}; give all in one size"
            )
    patch = given_encoder(encoder).patch_size
    sides = _whole_patches(height, patch), _whole_patches(width, patch)
    rules = {
        "input_size": sides if input_size is None else input_size, "top_k": top_k, "queue_length": queue_length, "radius": radius,
        "temperature": temperature, "precision": precision,
    }  # fmt: skip
    protocol = ClipProtocol.checked({"root": "", **rules}, "propagate")
    sides = input_sides(protocol.input_size, height, width)
    grid = grid_of(sides, patch, "the frames")
    order = label_order(first)
    ids_FHW = torch.zeros(len(images), height, width, dtype=torch.uint8)

    def add(frame: int, labels_NC: Tensor) -> None:
        ids_HW = first.ids_HW if frame == 0 else resize_nearest(decode_labels(labels_NC, order, grid, sides), (height, width))
        ids_FHW[frame] = torch.from_numpy(without_void(ids_HW))

    stream_frames(images, sides, grid, first_labels(first.ids_HW, order, sides, grid), add, encoder, protocol, encoder.device)
    return ids_FHW


def _whole_patches(side: int, patch: int) -> int:
    """The nearest side of whole patches that settings allow."""
    return max(round(side / patch), -(-8 // patch)) * patch


def _annotation(mask: Image.Image | Tensor) -> Annotation:
    if isinstance(mask, Image.Image) and mask.mode == "1":
        mask = torch.from_numpy(np.array(mask))
    if isinstance(mask, Image.Image):
        return to_annotation(mask, "the mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.is_floating_point() or mask.is_complex():
        described = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"the mask is {described}; give a palette or grey image, or a tensor (H, W) of whole numbers")
    if mask.numel() and not 0 <= int(mask.min()) <= int(mask.max()) <= 255:
        raise ValueError(f"the mask holds ids from {int(mask.min())} to {int(mask.max())}; allowed: 0..255")
    return to_annotation(Image.fromarray(mask.cpu().numpy().astype(np.uint8)), "the mask")
