"""DAVIS-2017 in its official layout, checked before a job starts. Nothing is ever written into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cdgmae.propagation.layouts.image_files import (
    FRAME_ENDINGS,
    common_ending,
    list_images,
    missing_numbers,
    name_runs,
    read_headers,
)
from cdgmae.propagation.layouts.labelled_clip import LabelledClip, check_root, listed_names, mask_clip, raise_problems
from cdgmae.propagation.measures.masks import VOID, Annotation, davis_palette, read_annotation

RESOLUTIONS = ("480p", "Full-Resolution")
LISTING = "ImageSets/2017/val.txt"
MIN_FRAMES = 3


def read_davis(root: Path, resolution: str = RESOLUTIONS[0]) -> list[LabelledClip]:
    """DAVIS-2017 val: every sequence of ImageSets/2017/val.txt.

    Args:
        root: Folder with JPEGImages, Annotations and ImageSets.
        resolution: 480p or Full-Resolution.

    Raises:
        LayoutError: missing list, folder, frame or annotation, gaps, files cut off, sizes that differ, annotations that are no ids
            or have other colours, no object in frame 0, or fewer than 3 frames.
    """
    check_root(root, "JPEGImages", "DAVIS-2017")
    problems: list[str] = []
    names = listed_names(root / LISTING, problems)
    images, annotations = root / "JPEGImages" / resolution, root / "Annotations" / resolution
    absent = [folder for folder in (images, annotations) if not folder.is_dir()]
    problems += [f"{folder}: no such folder{_other_resolution(folder)}" for folder in absent]
    clips = []
    for name in names if not absent else ():
        frames = list_images(images / name, FRAME_ENDINGS, problems)
        labels = list_images(annotations / name, (".png",), problems)
        known = len(problems)
        problems += missing_numbers({*frames, *labels}, 0, images / name, common_ending(frames, ".jpg"))
        clip = mask_clip(name, frames, labels, problems, same_size=True)
        if clip is not None and len(problems) == known:
            problems += _davis_objects(clip)
            clips.append(clip)
    layout = (
        f"{LISTING} (one sequence per line), JPEGImages/{resolution}/SEQUENCE/00000.jpg ..., "
        f"Annotations/{resolution}/SEQUENCE/00000.png ..."
    )
    raise_problems(problems, root, "DAVIS-2017", layout)
    return clips


def _other_resolution(folder: Path) -> str:
    others = [name for name in RESOLUTIONS if name != folder.name and folder.with_name(name).is_dir()]
    return (
        f"; {folder.with_name(others[0])} is there: use it with resolution: {others[0]} (--settings resolution={others[0]})"
        if others
        else ""
    )


def _davis_objects(clip: LabelledClip) -> list[str]:
    """What is wrong with the objects of frame 0 and with the colours of later annotations."""
    if len(clip.frames) < MIN_FRAMES:
        return [
            f"{clip.frames[0].parent}: {len(clip.frames)} frame(s), at least {MIN_FRAMES} are needed (first and last are not scored)"
        ]
    try:
        annotation = read_annotation(clip.labels[0])
    except ValueError as error:
        return [str(error)]
    labels = [int(value) for value in np.unique(annotation.ids_HW)]
    ids = [value for value in labels if value not in (0, VOID)]
    if labels == [0, VOID]:
        return [f"{clip.labels[0]}: holds only 0 and 255, as DAVIS-2016 does; use the annotations of DAVIS-2017"]
    if not ids:
        return [f"{clip.labels[0]}: no object in the first frame"]
    official = bool((annotation.palette[ids] == davis_palette()[ids]).all())
    if not official and ids != list(range(1, len(ids) + 1)):
        return [
            f"{clip.labels[0]}: wrong palette: ids {ids} are not 1..{len(ids)} and their colours are not DAVIS's; ids were lost on saving"
        ]
    return _recoloured(clip, annotation, ids)


def _recoloured(clip: LabelledClip, first: Annotation, ids: list[int]) -> list[str]:
    """Later annotations whose palette shows the objects in other colours than frame 0: saved by something that renumbers ids."""
    wanted = first.palette[ids].tobytes()
    odd = []
    for path, header in read_headers(clip.labels, []).items():
        colours = np.frombuffer(header.palette, dtype=np.uint8).reshape(-1, 3)
        if header.mode == "P" and (len(colours) <= max(ids) or colours[ids].tobytes() != wanted):
            odd.append(path)
    order = [path.stem for path in clip.labels]
    return [
        f"{files}: wrong palette: objects {ids} have other colours than in {clip.labels[0].name}; copy from the data set's archive"
        for files in name_runs(odd, order)
    ]
