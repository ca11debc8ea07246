"""What an input tar holds, read from its headers: nothing is unpacked, and a cut tar is noticed."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, cast

from cdgmae.storage.files.tree_listing import NO_EXTENSION, LeftOut

MAX_CLASS_BYTES = 256


MAX_HEADER_BYTES = 1 << 20
"""Longest single read while headers are listed; a longer extended header is an attack or damage."""

SCAN_BYTES = 1 << 20


class TarImage(NamedTuple):
    """One image member: its name, its WebDataset sample and extension (path up to the first dot of the file name; what follows that dot,
    in lower case), where its bytes lie."""

    member: str
    sample: str
    extension: str
    offset: int
    length: int


@dataclass
class TarContent:
    """Images of one tar in file order, class by sample (from `.cls` members), and members that are no images, with the reason."""

    images: list[TarImage] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


class _HeaderFile:
    """A tar that is read for its headers alone: no read may be longer than one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def list_tar(path: Path, extensions: frozenset[str]) -> TarContent:
    """Read the headers of a tar, or of several that were put together with `cat`.

    Args:
        path: A plain (not compressed) tar.
        extensions: Endings of images in lower case, with the dot.

    Raises:
        ValueError: if the file is not a plain tar, is cut short, has absurd headers, or holds tars instead of images.
    """
    content = TarContent()
    inner_tars = 0
    start: int | None = 0
    try:
        with path.open("rb") as file:
            while start is not None:
                file.seek(start)
                with tarfile.open(fileobj=cast(IO[bytes], _HeaderFile(file)), mode="r:", errors="surrogateescape") as tar:
                    inner_tars += _list_members(tar, extensions, content)
                    start = _next_archive(file, tar.offset, path)
    except ValueError as error:
        raise error if str(error).startswith(str(path)) else _unreadable(path, error) from None
    except (tarfile.TarError, OSError, RecursionError, MemoryError, OverflowError) as error:
        raise _unreadable(path, error) from None
    if inner_tars and not content.images:
        raise ValueError(
            f"{path} holds {inner_tars} tars instead of images; unpack this outer tar once and give the folder of its tars"
        )
    return content


def _unreadable(path: Path, error: Exception) -> ValueError:
    what = (
        "headers that refer to each other without end"
        if isinstance(error, RecursionError)
        else str(error) or type(error).__name__
    )
    return ValueError(
        f"{path} cannot be read as a plain tar: {what}. It is cut short, damaged or compressed; copy it again or decompress it."
    )


def _list_members(tar: tarfile.TarFile, extensions: frozenset[str], content: TarContent) -> int:
    """Add the members of one archive; returns how many of them are tars."""
    inner_tars = 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
        if member.size < 0:  # tarfile would go back to where it was
            raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
        name = os.path.basename(member.name)
        if member.isdir():
            continue
        extension = os.path.splitext(name)[1].lower()
        stem, _, rest = name.partition(".")
        sample = os.path.join(os.path.dirname(member.name), stem)
        if name.startswith("."):
            content.left_out.append(LeftOut(member.name, "hidden"))
        elif not member.isreg() or member.issparse():
            content.left_out.append(LeftOut(member.name, "no regular file (link, device or sparse file)"))
        elif extension in extensions:
            content.images.append(TarImage(member.name, sample, rest.lower(), member.offset_data, member.size))
        elif extension == ".cls":
            content.classes[sample] = _read_class(tar, member)
        else:
            inner_tars += extension == ".tar"
            content.left_out.append(LeftOut(member.name, f"ending {extension or NO_EXTENSION}"))
    return inner_tars


def _read_class(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    data = file.read(MAX_CLASS_BYTES) if file is not None else b""
    return data.decode("utf-8", "replace").strip()


def _next_archive(file: IO[bytes], end: int, path: Path) -> int | None:
    """Where the next archive begins behind the zeros that end this one; None at the end of the file.

    The headers of a whole tar end at a block of zeros; a cut or damaged one ends at something else.
    """
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block != tarfile.NUL * tarfile.BLOCKSIZE:
        where = "is cut short" if len(block) < tarfile.BLOCKSIZE else f"is damaged at byte {end}"
        raise ValueError(
            f"{path} {where}: a whole tar ends with blocks of zeros. Copy it again; if it is known to be whole, append 1,024 zero bytes to it."
        )
    place = end + tarfile.BLOCKSIZE
    while chunk := file.read(SCAN_BYTES):
        if rest := chunk.lstrip(tarfile.NUL):
            return (place + len(chunk) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        place += len(chunk)
    return None
