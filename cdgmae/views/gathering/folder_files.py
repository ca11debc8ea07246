"""View source `folder`: finding the files that another tool made, matching them to the data set's keys, and copying them.

A file belongs to a bag by its name alone: `{key}.{view_index}.EXT`, or `{key}/NAME.EXT` with the names of a folder in natural order
(2 before 10). The same holds for members of tars, which are never unpacked. Bytes are copied as they are.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from cdgmae.names import IMAGE_EXTENSIONS
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.storage.files.atomic import write_text
from cdgmae.storage.files.paths import path_to_text
from cdgmae.storage.files.tar_listing import list_tar
from cdgmae.storage.files.tree_listing import find_files
from cdgmae.storage.image_shards import BAD, OK, ImageRow, ImageShard, ImageShardWriter, index_path, read_index
from cdgmae.storage.media.images import ImageError, decode_rgb, image_extension, open_image, read_image_bytes
from cdgmae.storage.tables import file_sha256
from cdgmae.views.gathering.copying import check_bad_fraction
from cdgmae.views.sources.folder import FolderViews

NAMING = "{key}.{view_index}.EXT or {key}/NAME.EXT"
NUMBERED = re.compile(r"(.+)\.(\d{1,9})", re.DOTALL)
"""A file's stem in the first form."""


class OtherFile(NamedTuple):
    """A file or a member of a tar.

    Attributes:
        name: Its name below the root; of a member `tar!member`.
        inner: The part that says where it belongs: the name of a file, the member's own.
        path: The file that holds its bytes.
        offset: Where they begin.
        length: Their number; None: up to the end.
    """

    name: str
    inner: str
    path: Path
    offset: int = 0
    length: int | None = None


@dataclass
class Match:
    """What the files are to the bags of one shard.

    Attributes:
        views: Key -> view_index -> file, for every key of the shard.
        left: Name and reason of each file of these keys that is not taken; for the data set's first shard also of all files
            that match no key.
    """

    views: dict[str, dict[int, OtherFile]]
    left: list[tuple[str, str]] = field(default_factory=list)


def gather_folder(
    settings: FolderViews, shard_tar: Path, all_tars: Sequence[Path], output_tar: Path, *, threads: int = 1
) -> dict[str, Any]:
    """Fill the bags of one shard with the files of a folder.

    An image without any file, and a file that cannot be decoded, is a row with its reason. What is not taken is listed in
    `NAME.not_taken.csv` beside the output.

    Args:
        settings: Where the files lie, and how many join a bag.
        shard_tar: Image shard with the real images.
        all_tars: All image shards of the data set: a file that matches another shard's key is no stranger.
        output_tar: View shard to write; its index goes beside it.
        threads: Files decoded at the same time.

    Returns:
        What was done: output, images, views, bad, without_views (images that no file belongs to), not_taken (files).

    Raises:
        ValueError: if no file at all matches a key, or more than `max_bad_fraction` of the files cannot be read.
    """
    rows = {row.key: row for row in sorted(ImageShard(shard_tar).rows(OK), key=lambda row: row.key)}
    match = match_files(settings, rows, _keys_of(all_tars), lists_strangers=shard_tar.name == min(tar.name for tar in all_tars))
    without = 0
    bad: list[str] = []
    views = [(rows[key], number, file) for key, files in match.views.items() for number, file in files.items()]
    with ImageShardWriter(output_tar) as writer, ProgressMeter(f"files {output_tar.stem}", len(views), unit="files") as meter:
        read = _read_all(views, settings.max_pixels, threads)
        for key, files in match.views.items():
            if not files:
                writer.add_failure(_row(rows[key], 1, None, status=BAD, reason="no file of this key in the folder"))
                without += 1
            for _ in files:
                row, data = next(read)
                if row.status == BAD:
                    bad.append(f"{row.source_path}: {row.reason}")
                    writer.add_failure(row)
                else:
                    writer.add_image(row, data)
                meter.advance()
        check_bad_fraction(
            bad,
            len(views),
            settings.max_bad_fraction,
            "Mend or remove these files, or raise views.sources.NAME.max_bad_fraction.",
        )
        _list_left(output_tar, match.left)
        writer.commit(
            settings_digest=settings.digest(), inputs={str(index_path(shard_tar)): file_sha256(index_path(shard_tar))},
            extra={"without_views": without, "not_taken": len(match.left)},
        )  # fmt: skip
    return {
        "output": str(output_tar), "images": len(rows), "views": len(views) - len(bad), "bad": len(bad), "without_views": without,
        "not_taken": len(match.left),
    }  # fmt: skip


def match_files(settings: FolderViews, own: Sequence[str] | dict[str, Any], keys: set[str], *, lists_strangers: bool) -> Match:
    """Match all files below the root to keys.

    Args:
        settings: Where the files lie, and how many join a bag.
        own: Keys of the shard at hand.
        keys: Keys of the whole data set.
        lists_strangers: Whether files that match no key are listed.

    Raises:
        ValueError: if there is no image, or none matches a key.
    """
    match = Match({key: {} for key in own})
    unnumbered: dict[str, list[OtherFile]] = {}
    matched, strangers = 0, list[str]()
    for file in list_files(Path(settings.root)):
        key, number = key_of(file.inner, keys)
        if key is None:
            if len(strangers) < 3:
                strangers.append(file.name)
            if lists_strangers:
                match.left.append((file.name, _why_strange(file.inner)))
            continue
        matched += 1
        if key not in match.views:
            continue
        views = match.views[key]
        if number is None:
            unnumbered.setdefault(key, []).append(file)
        elif number == 0:
            match.left.append((file.name, "view_index 0 is the real image"))
        elif number in views:
            match.left.append((file.name, f"{views[number].name} is this view already"))
        else:
            views[number] = file
    if not matched:
        examples = f"; keys look like {', '.join(sorted(keys)[:3])}, files like {', '.join(strangers)}" if strangers else ""
        raise ValueError(f"{settings.root}: no file matches a key of the data set{examples}. Name the files {NAMING}.")
    for key, files in unnumbered.items():
        _add_unnumbered(match.views[key], files)
    for key, views in match.views.items():
        numbers = sorted(views)
        match.left += [
            (views[number].name, f"beyond num_views = {settings.num_views}") for number in numbers[settings.num_views :]
        ]
        match.views[key] = {number: views[number] for number in numbers[: settings.num_views]}
    return match


def list_files(root: Path) -> Iterator[OtherFile]:
    """All files below a folder and all images in its tars, or the images in one tar, in an order of their own.

    Links are followed, but not back to a folder above themselves; hidden files are skipped.

    Raises:
        ValueError: if the root does not exist, or a folder or tar cannot be read.
    """
    if not root.exists():
        raise ValueError(f"{root} does not exist; give the folder of the views (views.sources.NAME.root)")
    names = [file.path for file in find_files(root)] if root.is_dir() else [root.name]
    folder = root if root.is_dir() else root.parent
    for name in names:
        if name.lower().endswith(".tar"):
            for member in list_tar(folder / name, IMAGE_EXTENSIONS).images:
                inner = path_to_text(member.member)
                yield OtherFile(f"{path_to_text(name)}!{inner}", inner, folder / name, member.offset, member.length)
        else:
            yield OtherFile(path_to_text(name), path_to_text(name), folder / name)


def key_of(name: str, keys: set[str]) -> tuple[str | None, int | None]:
    """Key of a file and its view_index, as far as its name gives them; (None, None) if it belongs to no key.

    Args:
        name: `inner` of an `OtherFile`.
        keys: Keys of the data set.
    """
    folder, _, base = name.rpartition("/")
    stem, extension = os.path.splitext(base)
    if extension.lower() not in IMAGE_EXTENSIONS:
        return None, None
    numbered, parent = NUMBERED.fullmatch(stem), _composed(folder.rpartition("/")[2])
    if numbered is not None and (key := _composed(numbered[1])) in keys:
        return key, int(numbered[2])
    return (parent, None) if parent in keys else (None, None)


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """Sort key by which numbers in a text count as numbers: `v2` before `v10`."""
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), part) if place % 2 else (0, 0, part) for place, part in enumerate(parts)]


def _add_unnumbered(views: dict[int, OtherFile], files: Sequence[OtherFile]) -> None:
    """Give files without a number the free ones from 1 on, in natural order of their names."""
    number = 1
    for file in sorted(files, key=lambda file: natural_order(file.name)):
        while number in views:
            number += 1
        views[number] = file


def _keys_of(tars: Sequence[Path]) -> set[str]:
    tables = (read_index(tar, ["key", "status"]).to_pydict() for tar in tars)
    return {key for table in tables for key, status in zip(table["key"], table["status"], strict=True) if status == OK}


def _why_strange(name: str) -> str:
    if os.path.splitext(name)[1].lower() not in IMAGE_EXTENSIONS:
        return f"not one of {', '.join(sorted(IMAGE_EXTENSIONS))}"
    return f"no image of the data set has such a key (named {NAMING})"


def _composed(name: str) -> str:
    """A name in Unicode's composed form, as keys are; some file systems take names apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _read_all(
    views: Sequence[tuple[ImageRow, int, OtherFile]], max_pixels: int, threads: int
) -> Iterator[tuple[ImageRow, bytes]]:
    """Row and bytes of every view in order; a few files per thread are in memory at a time."""
    waiting: deque[Future[tuple[ImageRow, bytes]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="files")
    try:
        for view in views:
            waiting.append(pool.submit(_read, *view, max_pixels))
            if len(waiting) > 3 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(real: ImageRow, number: int, file: OtherFile, max_pixels: int) -> tuple[ImageRow, bytes]:
    """One view: its bytes as they are, decoded once to prove that they are whole, or a row with the reason."""
    row = _row(real, number, file.name)
    try:
        data = read_image_bytes(file.path, max_pixels, file.offset, file.length)
        extension, image = image_extension(open_image(data, max_pixels)), decode_rgb(data, max_pixels)
    except ImageError as error:
        return replace(row, status=BAD, reason=str(error)), b""
    except OSError as error:
        return replace(row, status=BAD, reason=f"unreadable file ({error.strerror or error})"), b""
    return replace(row, extension=extension, width=image.width, height=image.height), data


def _row(real: ImageRow, number: int, name: str | None, **columns: Any) -> ImageRow:
    return ImageRow(real.key, number, class_name=real.class_name, source_path=name, sampler="folder", **columns)


def _list_left(output_tar: Path, left: Sequence[tuple[str, str]]) -> None:
    """Write the list of files that were not taken; none if there are none."""
    target = output_tar.with_suffix(".not_taken.csv")
    if not left:
        target.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("file", "reason"), *left])
    write_text(target, text.getvalue())
