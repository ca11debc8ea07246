"""What an input tar holds, read from its headers: nothing is unpacked, and a cut tar is noticed."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

MAX_CLASS_BYTES = 256


class TarImage(NamedTuple):
    """One image member: its name, its WebDataset group (path up to the first dot of the file name), where its bytes lie."""

    member: str
    group: str
    offset: int
    length: int


@dataclass
class TarContent:
    """Images of one tar in file order, class by group (from `.cls` members), and how many members were no regular files."""

    images: list[TarImage] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    ignored_members: int = 0


def list_tar(path: Path, extensions: frozenset[str]) -> TarContent:
    """Read the headers of a tar.

    Args:
        path: A plain (not compressed) tar.
        extensions: Endings of images in lower case, with the dot.

    Raises:
        ValueError: if the file is not a plain tar, is cut short, or holds tars instead of images.
    """
    content = TarContent()
    inner_tars = 0
    try:
        with tarfile.open(path, mode="r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                name = os.path.basename(member.name)
                if member.isdir() or name.startswith("."):
                    continue
                if not member.isreg() or member.issparse():
                    content.ignored_members += 1
                    continue
                extension = os.path.splitext(name)[1].lower()
                inner_tars += extension == ".tar"
                group = os.path.join(os.path.dirname(member.name), name.partition(".")[0])
                if extension in extensions:
                    content.images.append(TarImage(member.name, group, member.offset_data, member.size))
                elif extension == ".cls":
                    content.classes[group] = _read_class(tar, member)
            _check_end(tar, path)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a plain tar: {error}. It is cut short, damaged or compressed; copy it again or decompress it."
        ) from None
    if inner_tars and not content.images:
        raise ValueError(
            f"{path} holds {inner_tars} tars instead of images; unpack this outer tar once and give the folder of its tars"
        )
    return content


def _read_class(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    data = file.read(MAX_CLASS_BYTES) if file is not None else b""
    return data.decode("utf-8", "replace").strip()


def _check_end(tar: tarfile.TarFile, path: Path) -> None:
    """The headers of a whole tar end at a block of zeros; a cut or damaged one ends at something else."""
    with path.open("rb") as file:
        file.seek(tar.offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block == tarfile.NUL * tarfile.BLOCKSIZE:
        return
    where = "is cut short" if len(block) < tarfile.BLOCKSIZE else f"is damaged at byte {tar.offset}"
    raise ValueError(
        f"{path} {where}: a whole tar ends with blocks of zeros. Copy it again; if it is known to be whole, append 1,024 zero bytes to it."
    )
