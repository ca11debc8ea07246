"""Images and tars for the shards tests, drawn from a seed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def image_bytes(seed: int = 0, size: tuple[int, int] = (48, 32), format: str = "JPEG", mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, format=format)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def plant_bad_files(folder: Path) -> list[str]:
    """Ten files that cannot be used, each for another reason; returns their names."""
    good = image_bytes(1, (400, 300))
    png = image_bytes(2, (64, 64), "PNG")
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")
    contents = {
        "zero.jpg": b"",
        "text.jpg": b"this is no image",
        "cut.jpg": good[: len(good) // 2],
        "cut_header.JPEG": good[:20],
        "cut.png": png[: len(png) // 2],
        "noise.webp": np.random.default_rng(0).bytes(500),
        "page.jpeg": b"<html><body>404</body></html>",
        "bomb.png": bomb.getvalue(),
        "bitmap.jpg": image_bytes(3, format="PCX"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "vanished.jpg").symlink_to(folder / "nowhere")
    return [*contents, "vanished.jpg"]
