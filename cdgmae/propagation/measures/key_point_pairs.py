"""Image pairs with key points: SPair-71k's layout, the nearest patch of every point, and the counts behind PCK (spec evaluation_kinds).

Shapes: K key points of a pair, N cells of a grid, D feature width, h w rows and columns of the grid.
"""

from __future__ import annotations

import io
import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from cdgmae.models.encoders.frozen_encoder import Encoder
from cdgmae.propagation.benchmarks.benchmark import size_columns
from cdgmae.propagation.benchmarks.spair import ALPHAS, SpairProtocol
from cdgmae.propagation.engine.frames import embed_frames, grid_of, input_sides
from cdgmae.propagation.layouts.image_files import read_headers, show_size
from cdgmae.propagation.layouts.labelled_clip import check_root, listed_names, raise_problems
from cdgmae.propagation.tracks.tracking import sample_features
from cdgmae.storage.media.images import decode_rgb

logger = logging.getLogger("cdgmae")

Points = NDArray[np.float64]
Side = tuple[int, int]
LAYOUT = "Layout/large/test.txt, PairAnnotation/test/ID-SOURCE-TARGET:CATEGORY.json, JPEGImages/CATEGORY/NAME.jpg"
COLON_SUBSTITUTES = (":", "_", "-", "\uf03a", "")
"""What stands for the colon in the names of annotation files; some file systems have none."""

WHITE = (255, 255, 255)
LONGEST_NAME = 255
SHOWN = 40


@dataclass(frozen=True, slots=True)
class ImagePair:
    """Two images with the same key points: (K, 2) x and y in pixels; sizes are (height, width), `box_side` the target box's longer side."""

    name: str
    source: Path
    target: Path
    source_size: Side
    target_size: Side
    source_points: Points
    target_points: Points
    box_side: float


@dataclass(frozen=True, slots=True)
class PairGroup:
    """All pairs of one category; `files` are their images and annotations, each once."""

    name: str
    pairs: tuple[ImagePair, ...]
    files: tuple[Path, ...]

    @property
    def images(self) -> dict[Path, Side]:
        """Image -> (height, width), each once."""
        return {
            path: size for pair in self.pairs for path, size in ((pair.source, pair.source_size), (pair.target, pair.target_size))
        }

    @property
    def sizes(self) -> frozenset[Side]:
        """(height, width) of its images, each once."""
        return frozenset(self.images.values())

    @property
    def num_frames(self) -> int:
        """Images that are embedded."""
        return len(self.images)

    @property
    def num_painted(self) -> int:
        """Pairs, each of which can be painted."""
        return len(self.pairs)


def read_pairs(root: Path, layout: str, split: str) -> list[PairGroup]:
    """Categories with their pairs, both in the order of the list.

    Raises:
        LayoutError: missing list, annotation or image, or an annotation that contradicts itself or its images; lists all of it.
    """
    check_root(root, "PairAnnotation", "SPair-71k")
    problems: list[str] = []
    names = listed_names(root / "Layout" / layout / f"{split}.txt", problems)
    folder = root / "PairAnnotation" / split
    ending = next((char for char in COLON_SUBSTITUTES if names and _annotation(folder, names[0], char).is_file()), ":")
    if ending != ":":
        logger.info("%s: file names have %r in place of the colon", folder, ending)
    groups: dict[str, list[ImagePair]] = defaultdict(list)
    files: dict[str, dict[Path, None]] = defaultdict(dict)
    for name in names:
        path, category = _annotation(folder, name, ending), name.rpartition(":")[2]
        try:
            pair = _read_pair(root / "JPEGImages" / category, path, name)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            problems.append(
                f"{path}: {type(error).__name__}: {error}" if not isinstance(error, FileNotFoundError) else f"{path}: missing"
            )
            continue
        groups[category].append(pair)
        files[category] |= dict.fromkeys((path, pair.source, pair.target))
    sequences = [PairGroup(category, tuple(pairs), tuple(files[category])) for category, pairs in groups.items()]
    for image, size in {image: size for group in sequences for image, size in group.images.items()}.items():
        if not image.is_file():
            problems.append(f"{image}: missing")
        elif (header := read_headers([image], problems).get(image)) is not None and header.size != size:
            problems.append(f"{image}: {show_size(header.size)} pixels, but its annotations say {show_size(size)}")
    raise_problems(problems, root, "SPair-71k", LAYOUT)
    return sequences


def _annotation(folder: Path, name: str, ending: str) -> Path:
    return folder / f"{ending.join(name.rsplit(':', 1))}.json"


def _image_file(images: Path, name: object) -> Path:
    if not isinstance(name, str) or Path(name).name != name or len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"image name {str(name)[:SHOWN]!r} is no name of a file in {images}")
    return images / name


def _read_pair(images: Path, path: Path, name: str) -> ImagePair:
    values = json.loads(path.read_text(encoding="utf-8"))
    points = [np.asarray(values[key], dtype=np.float64).reshape(-1, 2) for key in ("src_kps", "trg_kps")]
    if len(points[0]) != len(points[1]) or not len(points[0]):
        raise ValueError(
            f"{len(points[0])} source and {len(points[1])} target key points; equal numbers, at least one, are needed"
        )
    x1, y1, x2, y2 = (float(value) for value in values["trg_bndbox"])
    if not (np.isfinite([*points[0].flat, *points[1].flat, x1, y1, x2, y2]).all() and x2 > x1 and y2 > y1):
        raise ValueError("key points or the box of the target are no finite positions")
    source_size, target_size = ((int(values[key][1]), int(values[key][0])) for key in ("src_imsize", "trg_imsize"))
    source, target = (_image_file(images, values[key]) for key in ("src_imname", "trg_imname"))
    return ImagePair(name, source, target, source_size, target_size, points[0], points[1], max(x2 - x1, y2 - y1))


def nearest_patches(source_hwD: Tensor, target_hwD: Tensor, points_K2: Tensor) -> Tensor:
    """Cells (K, 2), column before row, of the target whose features have the largest cosine with those at the source's points.

    Args:
        source_hwD: Unit features of the source.
        target_hwD: Unit features of the target.
        points_K2: x and y in the unit square of the source.
    """
    best_K = (sample_features(source_hwD, points_K2) @ target_hwD.flatten(0, 1).T).argmax(dim=1)
    width = target_hwD.shape[1]
    return torch.stack([best_K % width, best_K // width], dim=1)


def find_points(group: PairGroup, protocol: SpairProtocol, encoder: Encoder, device: torch.device) -> PairPredictions:
    """Embed every image of a category once, then look up the key points of all pairs."""
    images = list(group.images.items())
    features: dict[Path, Tensor] = {}
    by_sides: dict[Side, list[Path]] = defaultdict(list)
    for path, size in images:
        by_sides[input_sides(protocol.input_size, *size)].append(path)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for sides, paths in by_sides.items():
            grid = grid_of(sides, encoder.patch_size, f"category {group.name}")
            for path, features_ND in zip(paths, embed_frames(paths, sides, encoder, device, protocol.precision), strict=True):
                features[path] = features_ND.unflatten(0, grid)
        predictions = [_find(pair, features[pair.source], features[pair.target]) for pair in group.pairs]
    sides_of = {path: sides for sides, paths in by_sides.items() for path in paths}
    return PairPredictions(group, predictions, [sides_of[pair.target] for pair in group.pairs])


def _find(pair: ImagePair, source_hwD: Tensor, target_hwD: Tensor) -> Points:
    """Predicted key points (K, 2) in pixels of the target: the centres of the nearest patches."""
    unit_K2 = torch.from_numpy(pair.source_points / np.array(pair.source_size[::-1])).to(source_hwD)
    cells_K2 = nearest_patches(source_hwD, target_hwD, unit_K2).cpu().numpy()
    grid = np.array([target_hwD.shape[1], target_hwD.shape[0]])
    points: Points = (cells_K2 + 0.5) / grid * np.array(pair.target_size[::-1])
    return points


class PairPredictions:
    """Where the key points of a category's pairs were found."""

    def __init__(self, group: PairGroup, predicted: list[Points], sides: list[Side]) -> None:
        """Hold the predictions.

        Args:
            group: The category.
            found: Predicted points (K, 2) of every pair, in pixels of its target.
            sides: (H, W) at which the target of every pair was embedded.
        """
        self.group, self.predicted, self.sides = group, predicted, sides

    def distances(self, index: int) -> Points:
        """Distances (K,) of a pair's predicted points from the true ones, in longer sides of the target's box."""
        pair = self.group.pairs[index]
        distances: Points = np.hypot(*(self.predicted[index] - pair.target_points).T) / pair.box_side
        return distances

    def rows(self) -> list[dict[str, Any]]:
        """One row per pair."""
        rows = []
        for index, pair in enumerate(self.group.pairs):
            distances_K = self.distances(index)
            hits = {f"hits_{alpha}": int((distances_K <= alpha).sum()) for alpha in ALPHAS}
            sizes = size_columns(self.sides[index], pair.target_size)
            rows.append({"item": index, "item_name": pair.name, "points": len(distances_K), **hits, **sizes})
        return rows

    def predictions(self) -> dict[str, bytes]:
        """key_points/CATEGORY.parquet: a row per pair and point: pair, point, x and y in pixels of the target, distance in its box sides."""
        counts = [len(points) for points in self.predicted]
        located = np.concatenate(self.predicted)
        columns = {
            "pair": np.repeat([pair.name for pair in self.group.pairs], counts),
            "point": np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
            "x": located[:, 0],
            "y": located[:, 1],
            "distance": np.concatenate([self.distances(index) for index in range(len(counts))]),
        }
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        return {f"key_points/{self.group.name}.parquet": buffer.getvalue()}

    def images(self) -> Iterator[Image.Image]:
        """All pairs, painted on a canvas of one size, as videos want it."""
        for index in range(len(self.group.pairs)):
            canvas, image = Image.new("RGB", (1280, 640)), self.image(index, 1280)
            image.thumbnail(canvas.size)
            canvas.paste(image)
            yield canvas

    def image(self, index: int, longer_side: int) -> Image.Image:
        """A pair side by side: the given points left, those found right, with a line to the true place of those missed."""
        pair, height = self.group.pairs[index], longer_side // 2
        halves, scales = [], []
        for path in (pair.source, pair.target):
            half = decode_rgb(path.read_bytes())
            scales.append(min(height / half.width, height / half.height))
            halves.append(half.resize((max(1, round(half.width * scales[-1])), max(1, round(half.height * scales[-1])))))
        canvas = Image.new("RGB", (2 * height, height))
        for place, half in enumerate(halves):
            canvas.paste(half, (place * height, 0))
        draw, shift = ImageDraw.Draw(canvas), np.array([height, 0.0])
        colours = [
            tuple(colour) for colour in (np.random.default_rng(0).integers(64, 256, (len(pair.source_points), 3))).tolist()
        ]
        for point, given in enumerate(pair.source_points * scales[0]):
            at, truth = (points[point] * scales[1] + shift for points in (self.predicted[index], pair.target_points))
            if self.distances(index)[point] > ALPHAS[0]:
                draw.line([*at, *truth], fill=WHITE, width=2)
            for x, y in (given, at):
                draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colours[point], outline=(0, 0, 0))
        return canvas
