"""VIP in its official layout, checked before a job starts. Nothing is ever written into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cdgmae.names import is_foreign
from cdgmae.propagation.layouts.image_files import FRAME_ENDINGS, list_images
from cdgmae.propagation.layouts.labelled_clip import LabelledClip, check_root, listed_names, mask_clip, raise_problems
from cdgmae.propagation.measures.masks import VOID, read_annotation
from cdgmae.propagation.measures.part_measures import NUM_PARTS
from cdgmae.storage.media.clips import temporal_key

LISTING = "lists/val_videos.txt"
LAYOUT = f"{LISTING} (optional), Images/VIDEO/FRAME.jpg, Annotations/Category_ids/VIDEO/FRAME.png with ids 0..19"


def read_vip(root: Path) -> list[LabelledClip]:
    """VIP: the videos of lists/val_videos.txt, or without that list every folder of Images; files named *blend* are passed over.

    Raises:
        LayoutError: missing folder, frame or annotation, files cut off, sizes that differ, annotations that are no part ids.
    """
    check_root(root, "Images", "VIP")
    problems: list[str] = []
    images, annotations = root / "Images", root / "Annotations/Category_ids"
    problems += [f"{folder}: no such folder" for folder in (images, annotations) if not folder.is_dir()]
    if problems:
        raise_problems(problems, root, "VIP", LAYOUT)
    if (root / LISTING).is_file():
        names = listed_names(root / LISTING, problems)
    else:
        names = sorted((path.name for path in images.iterdir() if path.is_dir() and not is_foreign(path.name)), key=temporal_key)
        if not names:
            problems.append(f"{images}: no folders of frames")
    clips = []
    for name in names:
        frames = list_images(images / name, FRAME_ENDINGS, problems, skip="blend")
        labels = list_images(annotations / name, (".png",), problems, skip="blend")
        clip = mask_clip(name, frames, labels, problems, same_size=False)
        if clip is not None:
            problems += _vip_parts(clip)
            clips.append(clip)
    raise_problems(problems, root, "VIP", LAYOUT)
    return clips


def _vip_parts(clip: LabelledClip) -> list[str]:
    """What is wrong with the ids of frame 0."""
    try:
        ids = np.unique(read_annotation(clip.labels[0]).ids_HW)
    except ValueError as error:
        return [str(error)]
    odd = [int(value) for value in ids if NUM_PARTS <= value < VOID]
    return (
        [f"{clip.labels[0]}: ids {odd} are no VIP parts (0..{NUM_PARTS - 1}, 255 unlabelled); use Category_ids as unpacked"]
        if odd
        else []
    )
