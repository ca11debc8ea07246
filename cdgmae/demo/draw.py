"""Draws the whole demo: an image tree and three evaluation sets, each folder whole or absent, the marker last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from cdgmae import __version__
from cdgmae.demo.figures import draw_figure_clip
from cdgmae.demo.layouts import write_davis, write_jhmdb, write_vip
from cdgmae.demo.objects import draw_object_clip
from cdgmae.demo.photographs import CLIP_PHOTOGRAPHS, load_photographs
from cdgmae.demo.tiles import draw_tiles
from cdgmae.names import demo_marker
from cdgmae.runtime.progress import ProgressMeter
from cdgmae.runtime.seeds import numpy_generator
from cdgmae.settings.demo import DemoSettings
from cdgmae.storage.files.atomic import atomic_folder, explain_write_errors, write_text
from cdgmae.storage.files.records import files_of
from cdgmae.storage.tables import file_sha256
from cdgmae.workflow.damage import listing_problem

FOLDERS = ("images", "DAVIS", "VIP", "JHMDB", "generator")
NOTE_NAME = "README.txt"
NOTE = "Drawn by `cdgmae demo draw` from photographs inside scikit-image and scikit-learn; drawing again replaces this folder.\n"

GENERATOR = Path(__file__).parent / "generator"
"""What the demo's generator starts from: trained on the same tiles by `make demo-generator`, under the licence of this package."""

DAVIS_SIZE = (192, 144)
FIGURE_SIZE = (160, 160)
"""Frame sizes, (width, height) in pixels."""

ACTIONS = ("walk", "wave")
"""Class names of the JHMDB clips, in turn."""


def draw_demo(settings: DemoSettings, seed: int) -> dict[str, Any]:
    """Draw the demo data; does nothing if it is there already with the same settings, seed and versions.

    Equal settings and seed give equal bytes. Written are `images/{synset}/{name}.JPEG`, `DAVIS`, `VIP`, `JHMDB` in their official
    layouts, the generator that training starts from, and last `demo.json`, which lists what was drawn: every file with its size, by
    which a plan of the workflow notices one that is gone.

    Args:
        settings: Folder, numbers and sizes.
        seed: Root seed.

    Returns:
        Numbers of tiles, clips and files, and the marker's path.

    Raises:
        ValueError: if the folder cannot be written, or holds a folder of that name that this function did not draw.
    """
    root, marker = Path(settings.directory), Path(demo_marker(settings.directory))
    wanted = _identity(settings, seed)
    if (drawn := _drawn_already(root, marker, wanted)) is not None:
        return {**drawn, "files": len(drawn["files"]), "drawn": False, "marker": str(marker)}
    for name in FOLDERS:
        _refuse_foreign(root / name)
    with explain_write_errors(root):
        marker.unlink(missing_ok=True)
        drawn = _draw_all(root, settings, seed)
        write_text(marker, json.dumps({**wanted, **drawn}, indent=2) + "\n")
    return {**drawn, "files": len(drawn["files"]), "drawn": True, "marker": str(marker)}


def _draw_all(root: Path, settings: DemoSettings, seed: int) -> dict[str, Any]:
    photographs = load_photographs()
    for_clips = {name: photographs[name] for name in CLIP_PHOTOGRAPHS}
    writers: dict[str, Callable[[Path], object]] = {
        "images": lambda folder: draw_tiles(folder, photographs, settings.num_tiles, settings.tile_size, seed),
        "DAVIS": lambda folder: _draw_davis(folder, for_clips, settings, seed),
        "VIP": lambda folder: _draw_vip(folder, for_clips, settings, seed),
        "JHMDB": lambda folder: _draw_jhmdb(folder, for_clips, settings, seed),
        "generator": lambda folder: shutil.copytree(GENERATOR, folder, dirs_exist_ok=True),
    }
    with ProgressMeter("draw demo", len(writers), unit="data sets") as meter:
        for name, write in writers.items():
            with atomic_folder(root / name) as folder:
                write(folder)
                (folder / NOTE_NAME).write_text(NOTE, encoding="utf-8")
            meter.advance(note=name)
    files = {str(file.relative_to(root)): file.stat().st_size for name in FOLDERS for file in files_of(root / name)}
    return {"tiles": settings.num_tiles, "clips": 3 * settings.clips_per_set, "files": files}


def _draw_davis(folder: Path, photographs: dict[str, Image.Image], settings: DemoSettings, seed: int) -> None:
    for number in range(settings.clips_per_set):
        rng = numpy_generator(seed, "demo/davis", number)
        frames = draw_object_clip(photographs, number, settings.frames_per_clip, DAVIS_SIZE, rng)
        write_davis(folder, f"drift-{number:02d}", frames)


def _draw_vip(folder: Path, photographs: dict[str, Image.Image], settings: DemoSettings, seed: int) -> None:
    for number in range(settings.clips_per_set):
        rng = numpy_generator(seed, "demo/vip", number)
        write_vip(folder, number, draw_figure_clip(photographs, number + 2, settings.frames_per_clip, FIGURE_SIZE, rng))


def _draw_jhmdb(folder: Path, photographs: dict[str, Image.Image], settings: DemoSettings, seed: int) -> None:
    for number in range(settings.clips_per_set):
        rng = numpy_generator(seed, "demo/jhmdb", number)
        action = ACTIONS[number % len(ACTIONS)]
        frames = draw_figure_clip(photographs, number + 5, settings.frames_per_clip, FIGURE_SIZE, rng)
        write_jhmdb(folder, action, f"figure_{action}_{number:02d}", frames)


def _identity(settings: DemoSettings, seed: int) -> dict[str, Any]:
    """What decides the bytes of the demo, apart from the folder's name."""
    packages = ("numpy", "pillow", "scikit-image", "scikit-learn")
    versions = {"cdgmae": __version__, **{name: version(name) for name in packages}}
    drawn = settings.model_dump(mode="json", exclude={"directory"})
    return {"settings": drawn, "seed": seed, "versions": versions, "generator": file_sha256(GENERATOR / "cdgmae.json")}


def _drawn_already(root: Path, marker: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """What the marker says was drawn, if it describes what is wanted and every file is there as it was drawn."""
    try:
        marked = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if {name: marked.get(name) for name in wanted} != wanted:
        return None
    drawn = {name: value for name, value in marked.items() if name not in wanted}
    return drawn if listing_problem(root, drawn["files"]) is None else None


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not (folder / NOTE_NAME).is_file():
        raise ValueError(
            f"{folder} exists and was not drawn by the demo, so it is left alone; choose another demo.directory or move it away"
        )
