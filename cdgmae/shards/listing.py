"""Which images a data set has: an image tree, tar files of images, or clips, in an order that does not depend on the file system.

Tars are never unpacked: an image in a tar is known by the offset and length of its bytes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.keys import distinct_keys, safe_key
from cdgmae.storage.files.paths import path_to_text
from cdgmae.storage.files.tar_listing import list_tar
from cdgmae.storage.files.tree_listing import find_files
from cdgmae.storage.media.clips import VIDEO_EXTENSIONS
from cdgmae.storage.media.images import IMAGE_EXTENSIONS

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


def list_images(settings: DatasetSettings) -> pa.Table:
    """The images of a data set, sorted, with distinct keys.

    Args:
        settings: `path` and `layout` are used.

    Returns:
        Columns key, source_path (relative to the root, `tar!member` in tars), class_name, byte_size, tar_path, tar_offset.

    Raises:
        ValueError: if the path is missing, holds no images, or a folder or tar in it cannot be read.
    """
    root = Path(settings.path)
    if not root.exists():
        raise ValueError(
            f"data set path {settings.path!r} does not exist. Give the folder that holds the "
            f"{CONTENTS.get(settings.layout, 'tar files')} (shards.datasets.NAME.path in the config, or --root)."
        )
    if settings.layout in CONTENTS:
        found = _clips_of_tree(root) if settings.layout == "clips" else _images_of_tree(root)
    else:
        found = _images_of_tars(root, settings.layout)
    table = _collect(found)
    if table.num_rows == 0:
        raise ValueError(_nothing_found(root, settings.layout))
    keys = distinct_keys(table["key"].combine_chunks(), table["class_name"].combine_chunks())
    return table.set_column(0, "key", keys)


def _clips_of_tree(root: Path) -> Iterator[ListedImage]:
    """One image per clip, drawn when it is packed: video files, and folders that hold frames. The class is the clip's folder."""
    if not root.is_dir():
        raise ValueError(f"data set path {str(root)!r} is a file. Layout `clips` needs the folder that holds the clips.")
    folder_sizes: dict[str, int] = {}
    clips: list[ListedImage] = []
    for file in find_files(root, VIDEO_EXTENSIONS | IMAGE_EXTENSIONS):
        folder, name = os.path.split(file.path)
        stem, extension = os.path.splitext(name)
        if extension.lower() in VIDEO_EXTENSIONS:
            clips.append(ListedImage(file.path, stem, file.parent, file.byte_size))
        elif folder:  # images in the root itself belong to no clip
            folder_sizes[folder] = folder_sizes.get(folder, 0) + file.byte_size
    for folder, byte_size in folder_sizes.items():
        clips.append(ListedImage(folder, os.path.basename(folder), os.path.basename(os.path.dirname(folder)) or None, byte_size))
    yield from sorted(clips, key=lambda clip: clip.source_path)


def _images_of_tree(root: Path) -> Iterator[ListedImage]:
    if not root.is_dir():
        raise ValueError(
            f"data set path {str(root)!r} is a file. Layout `images` needs a folder; for a tar use layout class_tars or webdataset."
        )
    for file in find_files(root, IMAGE_EXTENSIONS):
        stem = os.path.splitext(os.path.basename(file.path))[0]
        yield ListedImage(file.path, stem, file.parent, file.byte_size)


def _images_of_tars(root: Path, layout: str) -> Iterator[ListedImage]:
    if root.is_dir():
        tars = [file.path for file in find_files(root, frozenset({".tar"}))]
    else:
        root, tars = root.parent, [root.name]
    ignored = 0
    for number, tar_path in enumerate(tars, start=1):
        content = list_tar(root / tar_path, IMAGE_EXTENSIONS)
        ignored += content.ignored_members
        for image in content.images:
            stem = os.path.basename(image.group)
            class_name = content.classes.get(image.group)
            if layout == "class_tars":  # the image's whole stem, as in an image tree; the tar is the class
                stem, class_name = os.path.splitext(os.path.basename(image.member))[0], Path(tar_path).stem
            source_path = f"{tar_path}!{image.member}"
            yield ListedImage(source_path, stem, class_name, image.length, tar_path, image.offset)
        logger.info("listed tar %d of %d: %s, %d images", number, len(tars), tar_path, len(content.images))
    if ignored:
        logger.warning("%d tar members that are no regular files (links, devices, sparse files) were ignored", ignored)


def _collect(found: Iterator[ListedImage]) -> pa.Table:
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

    for image in found:
        chunk.append(image)
        if len(chunk) == CHUNK_ROWS:
            flush()
    if chunk:
        flush()
    return pa.Table.from_batches(batches, schema=schema)


def _nothing_found(root: Path, layout: str) -> str:
    endings = ".JPEG, .jpg, .jpeg, .png or .webp"
    if layout == "clips":
        return f"{root} holds no clips: neither video files ({', '.join(sorted(VIDEO_EXTENSIONS))}) nor folders of frames ({endings})."
    if layout != "images":
        return f"{root} holds no .tar file with images ({endings}). Compressed tars must be decompressed; for loose files use layout images."
    hint = ""
    if next(find_files(root, frozenset({".tar"})), None) is not None:
        hint = " It holds tar files: use layout class_tars (one tar per class) or webdataset."
    return f"{root} holds no images ({endings}, at any depth; hidden files are skipped).{hint} Check the data set's path."
