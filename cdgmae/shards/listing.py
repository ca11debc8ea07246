"""Which images a data set has: an image tree, tar files of images, or clips, in an order that does not depend on the file system.

Tars are never unpacked: an image in a tar is known by the offset and length of its bytes.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from cdgmae.names import IMAGE_EXTENSIONS
from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.keys import distinct_keys, safe_key
from cdgmae.storage.files.paths import path_to_text
from cdgmae.storage.files.tar_listing import TarImage, list_tar
from cdgmae.storage.files.tree_listing import LeftOut, find_files
from cdgmae.storage.media.clips import VIDEO_EXTENSIONS

logger = logging.getLogger("cdgmae")

CONTENTS = {"images": "images", "clips": "clips"}
"""What lies loose below the root folder, by layout; the other layouts have tar files."""

CHUNK_ROWS = 8_192
LOG_EVERY_CHUNKS = 16


class ListedImage(NamedTuple):
    """One image as the listing finds it; `tar_path` and `tar_offset` are None for a loose file."""

    source_path: str
    stem: str
    class_name: str | None
    byte_size: int
    tar_path: str | None = None
    tar_offset: int | None = None


PLAIN_EXTENSIONS = (
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "tif", "tiff", "bmp", "ppm", "pgm", "pnm", "gif"
)  # fmt: skip
"""Extensions by which the image of a WebDataset sample is chosen, best first."""

TAR_EXTENSIONS = frozenset({".tar"})


def list_images(settings: DatasetSettings, left_out: list[LeftOut] | None = None) -> pa.Table:
    """The images of a data set, sorted, with distinct keys.

    Args:
        settings: `path`, `layout` and `image_extension` are used.
        left_out: Receives every file that is no image of the data set, with the reason.

    Returns:
        Columns key, source_path (relative to the root, `tar!member` in tars), class_name, byte_size, tar_path, tar_offset.

    Raises:
        ValueError: if the path is missing, holds no images, or a folder or tar in it cannot be read.
    """
    root, skipped = Path(settings.path), left_out if left_out is not None else []
    if not root.exists():
        raise ValueError(
            f"data set path {settings.path!r} does not exist. Give the folder that holds the "
            f"{CONTENTS.get(settings.layout, 'tar files')} (shards.datasets.NAME.path in the config, or --root)."
        )
    if settings.layout in CONTENTS:
        images = _clips_of_tree(root, skipped) if settings.layout == "clips" else _images_of_tree(root, skipped)
    else:
        images = _images_of_tars(root, settings, skipped)
    table = _collect(images)
    if table.num_rows == 0:
        raise ValueError(_nothing_found(root, settings.layout, skipped))
    keys = distinct_keys(table["key"].combine_chunks(), table["class_name"].combine_chunks())
    return table.set_column(0, "key", keys)


def _clips_of_tree(root: Path, left_out: list[LeftOut]) -> Iterator[ListedImage]:
    """One image per clip, drawn when it is packed: video files, and folders that hold frames. The class is the clip's folder."""
    if not root.is_dir():
        raise ValueError(f"data set path {str(root)!r} is a file. Layout `clips` needs the folder that holds the clips.")
    folder_sizes: dict[str, int] = {}
    clips: list[ListedImage] = []
    for file in find_files(root, VIDEO_EXTENSIONS | IMAGE_EXTENSIONS, left_out):
        folder, name = os.path.split(file.path)
        stem, extension = os.path.splitext(name)
        if extension.lower() in VIDEO_EXTENSIONS:
            clips.append(ListedImage(file.path, stem, file.parent, file.byte_size))
        elif folder:
            folder_sizes[folder] = folder_sizes.get(folder, 0) + file.byte_size
        else:
            left_out.append(LeftOut(file.path, "an image beside the clips' folders"))
    for folder, byte_size in folder_sizes.items():
        clips.append(ListedImage(folder, os.path.basename(folder), os.path.basename(os.path.dirname(folder)) or None, byte_size))
    yield from sorted(clips, key=lambda clip: clip.source_path)


def _images_of_tree(root: Path, left_out: list[LeftOut]) -> Iterator[ListedImage]:
    if not root.is_dir():
        raise ValueError(
            f"data set path {str(root)!r} is a file. Layout `images` needs a folder; for a tar use layout class_tars or webdataset."
        )
    for file in find_files(root, IMAGE_EXTENSIONS, left_out):
        stem = os.path.splitext(os.path.basename(file.path))[0]
        yield ListedImage(file.path, stem, file.parent, file.byte_size)


def _images_of_tars(root: Path, settings: DatasetSettings, left_out: list[LeftOut]) -> Iterator[ListedImage]:
    if root.is_dir():
        tars = [file.path for file in find_files(root, TAR_EXTENSIONS, left_out)]
    else:
        root, tars = root.parent, [root.name]
    for number, tar_path in enumerate(tars, start=1):
        content = list_tar(root / tar_path, IMAGE_EXTENSIONS)
        images = content.images
        if settings.layout == "webdataset":
            images = list(_one_per_sample(images, settings.image_extension, content.left_out))
        left_out.extend(LeftOut(f"{tar_path}!{path}", reason) for path, reason in content.left_out)
        for image in images:
            stem = os.path.basename(image.sample)
            class_name = content.classes.get(image.sample)
            if settings.layout == "class_tars":  # the image's whole stem, as in an image tree; the tar is the class
                stem, class_name = os.path.splitext(os.path.basename(image.member))[0], Path(tar_path).stem
            source_path = f"{tar_path}!{image.member}"
            yield ListedImage(source_path, stem, class_name, image.length, tar_path, image.offset)
        logger.info("listed tar %d of %d: %s, %d images", number, len(tars), tar_path, len(images))


def _one_per_sample(images: list[TarImage], extension: str | None, left_out: list[LeftOut]) -> Iterator[TarImage]:
    """The image of every run of members of one sample: the one of `extension`, else the one with the plainest extension.

    A WebDataset sample is a run of members of one name; the same name further behind is another sample.
    """
    wanted = extension.lower().lstrip(".") if extension is not None else None
    for sample, members in itertools.groupby(images, lambda image: image.sample):
        run = list(members)
        places = {name: place for place, name in enumerate(PLAIN_EXTENSIONS)}
        fitting = [image for image in run if wanted is None or image.extension == wanted]
        chosen = min(
            fitting, key=lambda image: (image.extension.count("."), places.get(image.extension, len(places))), default=None
        )
        for image in run:
            if image is not chosen:
                taken = f"its image is .{chosen.extension}" if chosen is not None else f"image_extension = {extension}"
                left_out.append(LeftOut(image.member, f"another image of sample {os.path.basename(sample)} ({taken})"))
        if chosen is not None:
            yield chosen


def _collect(images: Iterator[ListedImage]) -> pa.Table:
    """Gather images column by column, so that memory holds Arrow arrays and one chunk of Python objects."""
    names = ("key", "source_path", "class_name", "byte_size", "tar_path", "tar_offset")
    types = (pa.string(), pa.string(), pa.string(), pa.int64(), pa.string(), pa.int64())
    schema = pa.schema(list(zip(names, types, strict=True)))
    batches: list[pa.RecordBatch] = []
    chunk: list[ListedImage] = []

    def flush() -> None:
        texts = [path_to_text(image.source_path) for image in chunk]
        tars = [image.tar_path and path_to_text(image.tar_path) for image in chunk]
        classes = [image.class_name and path_to_text(image.class_name) for image in chunk]
        columns = (
            [safe_key(path_to_text(image.stem)) for image in chunk], texts, classes,
            [image.byte_size for image in chunk], tars, [image.tar_offset for image in chunk],
        )  # fmt: skip
        batches.append(
            pa.record_batch([pa.array(column, type=kind) for column, kind in zip(columns, types, strict=True)], schema=schema)
        )
        chunk.clear()
        if len(batches) % LOG_EVERY_CHUNKS == 0:
            logger.info("listed %d images", len(batches) * CHUNK_ROWS)

    for image in images:
        chunk.append(image)
        if len(chunk) == CHUNK_ROWS:
            flush()
    if chunk:
        flush()
    return pa.Table.from_batches(batches, schema=schema)


def _nothing_found(root: Path, layout: str, left_out: list[LeftOut]) -> str:
    endings = ", ".join(sorted(IMAGE_EXTENSIONS))
    there = Counter(reason for _, reason in left_out).most_common(4)
    seen = f" Left out there: {', '.join(f'{count} x {reason}' for reason, count in there)}." if there else ""
    if layout == "clips":
        return f"{root} holds no clips: neither video files ({', '.join(sorted(VIDEO_EXTENSIONS))}) nor folders of frames ({endings}).{seen}"
    if layout != "images":
        return f"{root} holds no .tar file with images ({endings}). Compressed tars must be decompressed; for loose files use layout images.{seen}"
    hint = ""
    if next(find_files(root, TAR_EXTENSIONS), None) is not None:
        hint = " It holds tar files: use layout class_tars (one tar per class) or webdataset."
    return f"{root} holds no images ({endings}, at any depth; hidden files are skipped).{hint}{seen} Check the data set's path."
