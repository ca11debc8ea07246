"""Small clips in the three official layouts: a textured block moving over a textured ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from cdgmae.propagation.measures.masks import davis_palette

HEIGHT, WIDTH = 64, 96


def draw_frame(seed: int, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """An RGB image and its ids: 1 for the block's left half, 2 for its right half."""
    rng = np.random.default_rng(seed)
    ground, block = (np.kron(rng.integers(0, 256, (size, size, 3)), np.ones((8, 8, 1))).astype(np.uint8) for size in (12, 4))
    image, ids = ground[:HEIGHT, :WIDTH].copy(), np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    image[top : top + 32, left : left + 32] = block
    ids[top : top + 32, left : left + 16], ids[top : top + 32, left + 16 : left + 32] = 1, 2
    return image, ids


def save_ids(path: Path, ids: np.ndarray, *, palette: bool = True) -> None:
    image = Image.fromarray(ids)
    if palette:
        image.putpalette(davis_palette().tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def save_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def write_davis(root: Path, names: tuple[str, ...] = ("one", "two"), frames: int = 5, step: int = 8) -> Path:
    for seed, name in enumerate(names):
        for frame in range(frames):
            image, ids = draw_frame(seed, 8 + step * frame, 16)
            save_image(root / f"JPEGImages/480p/{name}/{frame:05d}.jpg", image)
            save_ids(root / f"Annotations/480p/{name}/{frame:05d}.png", ids)
    listing = root / "ImageSets/2017/val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("\n".join(names))
    return root


def write_vip(root: Path, names: tuple[str, ...] = ("videos2", "videos10"), frames: int = 4) -> Path:
    for seed, name in enumerate(names):
        for frame in range(frames):
            image, ids = draw_frame(seed, 8 + 8 * frame, 16)
            stem = f"{1 + 25 * frame:012d}"
            save_image(root / f"Images/{name}/{stem}.jpg", image)
            save_ids(root / f"Annotations/Category_ids/{name}/{stem}.png", ids * 5, palette=False)
    return root


def write_jhmdb(root: Path, names: tuple[str, ...] = ("run_1", "run_2"), frames: int = 4, step: int = 0) -> Path:
    for seed, name in enumerate(names):
        positions = np.empty((2, 15, frames))
        for frame in range(frames):
            left = 8 + step * frame
            image, _ = draw_frame(seed, left, 16)
            save_image(root / f"Rename_Images/run/{name}/{frame + 1:05d}.png", image)
            # offsets keep joints off the middle between cells
            positions[:, :, frame] = [left + 13 + 5 * np.arange(15), 14 + 3 * np.arange(15)]
        folder = root / f"joint_positions/run/{name}"
        folder.mkdir(parents=True)
        scipy.io.savemat(folder / "joint_positions.mat", {"pos_img": positions})
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Name, size and time of everything below a folder."""
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))}
