"""Videos of a clip with its predicted labels painted over the frames and the errors outlined, as GIF or MP4.

Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart, in three brightnesses.
Shapes: H W canvas, J = 15 joints, T frames.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from cdgmae.propagation.layouts.labelled_clip import LabelledClip
from cdgmae.propagation.measures.joints import BOX_SHARE, JOINT_NAMES, LIMBS, Coordinates
from cdgmae.propagation.measures.masks import VOID, Ids, read_annotation
from cdgmae.storage.files.atomic import atomic_file
from cdgmae.storage.media.images import decode_rgb

FORMATS = ("gif", "mp4")
LONGER_SIDE = 640
CAPTION_HEIGHT = 24
FRAMES_PER_SECOND = 12
OPACITY = 0.55
THIN_ERROR = 2
MISS = 0.2
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
OKABE_ITO = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
LEFT, RIGHT, MIDDLE = OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[3]


def check_format(overlay_format: str) -> None:
    """Refuse a format that cannot be written here, before any clip is computed.

    Raises:
        ValueError: if the format is unknown, or it is mp4 and PyAV is not installed.
    """
    if overlay_format not in FORMATS:
        raise ValueError(f"overlay format {overlay_format!r} (--overlays): allowed are {', '.join(FORMATS)}")
    if overlay_format == "mp4" and importlib.util.find_spec("av") is None:
        raise ValueError("--overlays mp4 needs PyAV: run `pip install cdgmae[video]`, or ask for --overlays gif")


def label_colours() -> npt.NDArray[np.float32]:
    """RGB colour (256, 3), 0..255, of every id: seven colours, then the same lighter, then darker, then again from the start."""
    base = np.array(OKABE_ITO, dtype=np.float32)
    cycle = np.concatenate([base, 0.5 * base + 127.5, 0.5 * base])
    return cycle[(np.arange(256) - 1) % len(cycle)]


def mask_images(clip: LabelledClip, predictions_T: Sequence[Ids]) -> Iterator[Image.Image]:
    """A clip's frames under their predicted ids; regions that differ from the annotation have a white outline.

    Args:
        clip: With an annotation per frame.
        predictions_T: Predicted ids (h, w) of every frame.
    """
    for frame, predicted in enumerate(predictions_T):
        painted = mask_image(clip, frame, predicted, read_annotation(clip.labels[frame]).ids_HW)
        yield captioned(painted, clip, frame, "white outline: differs from the annotation")


def mask_image(clip: LabelledClip, frame: int, ids_HW: Ids, truth_HW: Ids, longer_side: int = LONGER_SIDE) -> Image.Image:
    """One frame under `ids_HW`, see `mask_images`; ids may have any size, `longer_side` is the image's, in pixels."""
    image = canvas(clip.frames[frame], longer_side)
    fitted = (_fit(ids, image.size) for ids in (ids_HW, truth_HW))
    return Image.fromarray(paint_ids(np.asarray(image), *fitted))


def paint_ids(image_HW3: npt.NDArray[np.uint8], ids_HW: Ids, truth_HW: Ids) -> npt.NDArray[np.uint8]:
    """Colour every predicted id but 0 and outline in white where prediction and truth differ.

    Pixels that the truth leaves open (255) are never errors; errors up to 4 pixels thin are left out, they lie along every border
    because labels have the resolution of patches.
    """
    labelled_HW1 = ((ids_HW != 0) & (ids_HW != VOID))[..., None]
    painted = np.where(labelled_HW1, (1 - OPACITY) * image_HW3 + OPACITY * label_colours()[ids_HW], image_HW3).astype(np.uint8)
    wrong_HW = ndimage.binary_opening((ids_HW != truth_HW) & (truth_HW != VOID), iterations=THIN_ERROR)
    painted[ndimage.binary_dilation(wrong_HW) & ~wrong_HW] = BLACK  # keeps the white line visible on white ground
    painted[wrong_HW & ~ndimage.binary_erosion(wrong_HW, iterations=2, border_value=1)] = WHITE
    return painted


def joint_images(
    clip: LabelledClip, pixels_2JT: Coordinates, found_JT: npt.NDArray[np.bool_], truth_2JT: Coordinates
) -> Iterator[Image.Image]:
    """A clip's frames with the predicted joints and limbs, and a white line to the true place of every joint that PCK@0.2 counts as missed.

    Left limbs are orange, right ones blue, the middle yellow.

    Args:
        clip: The clip.
        pixels_2JT: Predicted joints in pixels of the frames.
        found_JT: Which of them were not lost.
        truth_2JT: True joints in pixels.
    """
    for frame in range(len(clip.frames)):
        image = joint_image(clip, frame, pixels_2JT[:, :, frame], found_JT[:, frame], truth_2JT[:, :, frame])
        yield captioned(image, clip, frame, "white line: to the true joint, if missed at PCK@0.2")


def joint_image(
    clip: LabelledClip,
    frame: int,
    pixels_2J: Coordinates,
    found_J: npt.NDArray[np.bool_],
    truth_2J: Coordinates,
    longer_side: int = LONGER_SIDE,
) -> Image.Image:
    """One frame with joints and limbs, see `joint_images`; `longer_side` is the image's, in pixels."""
    image = canvas(clip.frames[frame], longer_side)
    scale = np.array([image.width / clip.frame_size[1], image.height / clip.frame_size[0]])[:, None]
    _draw_joints(image, pixels_2J * scale, found_J, truth_2J * scale)
    return image


def _draw_joints(image: Image.Image, joints_2J: Coordinates, found_J: npt.NDArray[np.bool_], truth_2J: Coordinates) -> None:
    draw = ImageDraw.Draw(image)
    points = [(float(x), float(y)) for x, y in joints_2J.T]
    true_points = [(float(x), float(y)) for x, y in truth_2J.T]
    for start, end in LIMBS:
        if found_J[start] and found_J[end]:
            draw.line([points[start], points[end]], fill=_side_colour(end), width=4)
    box = truth_2J[:, found_J]
    limit = MISS * BOX_SHARE * float(np.hypot(*np.ptp(box, axis=1))) if box.size else 0.0
    for joint, (x, y) in enumerate(points):
        if not found_J[joint]:
            continue
        if np.hypot(x - true_points[joint][0], y - true_points[joint][1]) > limit:
            draw.line([(x, y), true_points[joint]], fill=WHITE, width=2)
            dot(draw, true_points[joint], 4, BLACK, WHITE)
        dot(draw, (x, y), 5, _side_colour(joint), BLACK)


def _side_colour(joint: int) -> tuple[int, int, int]:
    return {"left": LEFT, "right": RIGHT}.get(JOINT_NAMES[joint].split(" ")[0], MIDDLE)


def dot(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: int, fill: tuple[int, int, int], rim: tuple[int, int, int]
) -> None:
    """A filled circle with a rim; `radius` in pixels."""
    draw.ellipse([at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius], fill=fill, outline=rim, width=2)


def canvas(path: Path, longer_side: int) -> Image.Image:
    """A frame with its longer side at `longer_side` and even sides, as video codecs want them."""
    image = decode_rgb(path.read_bytes())
    factor = longer_side / max(image.size)
    width, height = (max(2, 2 * round(side * factor / 2)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _fit(ids_HW: Ids, size: tuple[int, int]) -> Ids:
    return np.asarray(Image.fromarray(ids_HW).resize(size, Image.Resampling.NEAREST))


def captioned(image: Image.Image, clip: LabelledClip, frame: int, legend: str) -> Image.Image:
    """The image with a strip below that names clip and frame."""
    whole = Image.new("RGB", (image.width, image.height + CAPTION_HEIGHT), BLACK)
    whole.paste(image)
    number = f"frame {frame + 1} of {len(clip.frames)}"
    text = f"{number}   given labels, as coarse as patches   {clip.name}" if frame == 0 else f"{number}   {legend}   {clip.name}"
    ImageDraw.Draw(whole).text((6, image.height + 4), text, fill=WHITE, font=ImageFont.load_default(13))
    return whole


def write_overlay(path: Path, images: Iterator[Image.Image]) -> None:
    """Write images of one size as a video that appears whole or not at all.

    Args:
        path: Ends in .gif or .mp4.
        images: Frames in order, at least one.
    """
    with atomic_file(path) as temporary:
        if path.suffix == ".mp4":
            _write_mp4(temporary, images)
        else:
            # ten times faster than Pillow's default palette
            first, *others = (image.quantize(method=Image.Quantize.FASTOCTREE) for image in images)
            first.save(temporary, format="GIF", save_all=True, append_images=others, duration=1000 // FRAMES_PER_SECOND, loop=0)


def _write_mp4(path: Path, images: Iterator[Image.Image]) -> None:
    import av  # an optional extra

    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = None
        for image in images:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(FRAMES_PER_SECOND), options={"crf": "20"})
                stream.width, stream.height, stream.pix_fmt = image.width, image.height, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(stream.encode())
