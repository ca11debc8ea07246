"""The three clip sets in their official layouts, checked before a job starts. Nothing is ever written into them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from cdgmae.propagation.benchmarks.image_files import (
    FRAME_ENDINGS,
    common_ending,
    list_images,
    missing_numbers,
    name_runs,
    read_headers,
)
from cdgmae.propagation.benchmarks.jhmdb_layout import read_jhmdb
from cdgmae.propagation.benchmarks.labelled_clip import Clip, LayoutError, listed_names, mask_clip, raise_problems
from cdgmae.propagation.measures.masks import VOID, Annotation, davis_palette, read_annotation
from cdgmae.propagation.measures.part_measures import NUM_PARTS
from cdgmae.storage.files.tree_listing import is_foreign
from cdgmae.storage.media.clips import temporal_key

DAVIS_RESOLUTIONS = ("480p", "Full-Resolution")
DAVIS_LISTING = "ImageSets/2017/val.txt"
MIN_DAVIS_FRAMES = 3
VIP_LISTING = "lists/val_videos.txt"
VIP_LAYOUT = f"{VIP_LISTING} (optional), Images/VIDEO/FRAME.jpg, Annotations/Category_ids/VIDEO/FRAME.png with ids 0..19"
IMAGE_FOLDERS = {"davis": "JPEGImages", "vip": "Images", "jhmdb": "Rename_Images"}


def read_clips(clip_set: str, root: Path, resolution: str | None = None) -> list[Clip]:
    """All clips of a set, in the order of its list file.

    Args:
        clip_set: davis, vip or jhmdb.
        root: Folder of the set in its official layout.
        resolution: DAVIS only: 480p (also if None) or Full-Resolution.

    Raises:
        LayoutError: if anything is missing or inconsistent; lists all of it.
        ValueError: if the set is unknown, or has no such resolution.
    """
    readers: dict[str, Callable[[Path], list[Clip]]] = {
        "davis": partial(read_davis, resolution=resolution or DAVIS_RESOLUTIONS[0]), "vip": read_vip, "jhmdb": read_jhmdb
    }  # fmt: skip
    if clip_set not in readers:
        raise ValueError(f"clip set {clip_set!r} is unknown; allowed: {', '.join(readers)}")
    if clip_set != "davis" and resolution is not None:
        raise ValueError(f"resolution {resolution!r} (--resolution): only davis comes in several; leave it out for {clip_set}")
    if not root.is_dir():
        raise LayoutError(
            f"{root}: no such folder; set propagation.datasets.{clip_set}.root (--root) to where {clip_set} was unpacked"
        )
    hint = _misplaced_root(root, IMAGE_FOLDERS[clip_set])
    if hint is not None:
        raise LayoutError(f"{root}: holds no {IMAGE_FOLDERS[clip_set]}, but {hint} does; give --root {hint}")
    return readers[clip_set](root)


def _misplaced_root(root: Path, folder: str) -> Path | None:
    """The folder above or below `root` that holds `folder`, where `root` itself does not: one level too deep or too high."""
    if (root / folder).is_dir():
        return None
    near = [root.resolve().parent, *sorted(path for path in root.iterdir() if path.is_dir())]
    return next((path for path in near if (path / folder).is_dir()), None)


def read_davis(root: Path, resolution: str = DAVIS_RESOLUTIONS[0]) -> list[Clip]:
    """DAVIS-2017 val: every sequence of ImageSets/2017/val.txt.

    Args:
        root: Folder with JPEGImages, Annotations and ImageSets.
        resolution: 480p or Full-Resolution.

    Raises:
        LayoutError: missing list, folder, frame or annotation, gaps, files cut off, sizes that differ, annotations that are no ids
            or have other colours, no object in frame 0, or fewer than 3 frames.
    """
    problems: list[str] = []
    names = listed_names(root / DAVIS_LISTING, problems)
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
        f"{DAVIS_LISTING} (one sequence per line), JPEGImages/{resolution}/SEQUENCE/00000.jpg ..., "
        f"Annotations/{resolution}/SEQUENCE/00000.png ..."
    )
    raise_problems(problems, root, "DAVIS-2017", layout)
    return clips


def _other_resolution(folder: Path) -> str:
    others = [name for name in DAVIS_RESOLUTIONS if name != folder.name and folder.with_name(name).is_dir()]
    return f"; {folder.with_name(others[0])} is there: use it with resolution: {others[0]} (--resolution)" if others else ""


def _davis_objects(clip: Clip) -> list[str]:
    """What is wrong with the objects of frame 0 and with the colours of later annotations."""
    if len(clip.frames) < MIN_DAVIS_FRAMES:
        return [
            f"{clip.frames[0].parent}: {len(clip.frames)} frame(s), at least {MIN_DAVIS_FRAMES} are needed (first and last are not scored)"
        ]
    try:
        annotation = read_annotation(clip.labels[0])
    except ValueError as error:
        return [str(error)]
    found = [int(value) for value in np.unique(annotation.ids_HW)]
    ids = [value for value in found if value not in (0, VOID)]
    if found == [0, VOID]:
        return [f"{clip.labels[0]}: holds only 0 and 255, as DAVIS-2016 does; use the annotations of DAVIS-2017"]
    if not ids:
        return [f"{clip.labels[0]}: no object in the first frame"]
    official = bool((annotation.palette[ids] == davis_palette()[ids]).all())
    if not official and ids != list(range(1, len(ids) + 1)):
        return [
            f"{clip.labels[0]}: wrong palette: ids {ids} are not 1..{len(ids)} and their colours are not DAVIS's; ids were lost on saving"
        ]
    return _recoloured(clip, annotation, ids)


def _recoloured(clip: Clip, first: Annotation, ids: list[int]) -> list[str]:
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


def read_vip(root: Path) -> list[Clip]:
    """VIP: the videos of lists/val_videos.txt, or without that list every folder of Images; files named *blend* are passed over.

    Raises:
        LayoutError: missing folder, frame or annotation, files cut off, sizes that differ, annotations that are no part ids.
    """
    problems: list[str] = []
    images, annotations = root / "Images", root / "Annotations/Category_ids"
    problems += [f"{folder}: no such folder" for folder in (images, annotations) if not folder.is_dir()]
    if problems:
        raise_problems(problems, root, "VIP", VIP_LAYOUT)
    if (root / VIP_LISTING).is_file():
        names = listed_names(root / VIP_LISTING, problems)
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
    raise_problems(problems, root, "VIP", VIP_LAYOUT)
    return clips


def _vip_parts(clip: Clip) -> list[str]:
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
