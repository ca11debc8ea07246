"""Bags of views for the page: chosen evenly over the NPS ranking, with thumbnails and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from cdgmae.consistency.query import tars_behind
from cdgmae.settings.report import ReportSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.files.atomic import write_bytes
from cdgmae.storage.image_shards import OK, index_path
from cdgmae.storage.media.images import ImageError, encode_jpeg
from cdgmae.storage.tables import read_table

FIGURES, BAGS = "figures", "bags"
"""Folder of all images of the page, and its folder of thumbnails."""

THUMBNAIL_QUALITY = 85


@dataclass(frozen=True, slots=True)
class ShownView:
    """One image of a bag: its thumbnail (path relative to the page) or the problem, and its scores.

    `view_index` 0 is the real image and has no scores.
    """

    view_index: int
    image: str | None
    problem: str | None
    scores: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShownBag:
    """One bag: its key and class, its place in the NPS ranking (1 = lowest) and its images."""

    key: str
    class_name: str | None
    rank: int
    mean_nps: float
    views: list[ShownView]


@dataclass(frozen=True, slots=True)
class SourceBags:
    """The shown bags of one source, out of `num_bags` scored ones."""

    source: str
    num_bags: int
    bags: list[ShownBag]


@dataclass(frozen=True, slots=True)
class _Pick:
    table: Path
    key: str
    rank: int
    mean_nps: float


def show_bags(tables: Sequence[Path], results: Path, source: str, settings: ReportSettings, output: Path) -> SourceBags | None:
    """Choose bags of one source and write their thumbnails below `output`/figures/bags.

    Bags are ranked by the mean NPS of their views and taken at equal distances of rank, so that the worst, the best and those
    between are seen in the proportion in which they exist. Pairs of two views, and crops, are left out: a bag's images stand with
    what they score against its real image.

    Args:
        tables: Score tables of the source.
        results: Folder with the results of the stages.
        source: Name of the source.
        settings: Number of bags, size of the thumbnails.
        output: Folder of the report.

    Returns:
        The bags, lowest NPS first, or None if the source has no scored pair with a real image.
    """
    picks, num_bags = _choose(tables, settings.num_bags)
    if not picks:
        return None
    bags: dict[int, ShownBag] = {}
    for table in sorted({pick.table for pick in picks}):
        chosen = [pick for pick in picks if pick.table == table]
        bags.update((bag.rank, bag) for bag in _show_table(results, source, table, chosen, settings.thumbnail_size, output))
    return SourceBags(source, num_bags, [bags[pick.rank] for pick in picks])


def _choose(tables: Sequence[Path], count: int) -> tuple[list[_Pick], int]:
    """Picks at equal distances of the ranking by mean NPS, and the number of ranked bags; one table is read at a time."""
    keys: list[str] = []
    origins: list[int] = []
    means: list[float] = []
    for number, path in enumerate(tables):
        table = read_table(path, ["key", "view_a", "status", "nps"])
        good = pc.and_(pc.equal(table["status"], OK), pc.equal(table["view_a"], 0))
        grouped = table.filter(good).group_by("key").aggregate([("nps", "mean")])
        keys.extend(grouped["key"].to_pylist())
        means.extend(grouped["nps_mean"].to_pylist())
        origins.extend([number] * grouped.num_rows)
    order = sorted(range(len(keys)), key=lambda index: (means[index], keys[index]))
    places = evenly_spaced(len(order), count)
    picks = [(place, order[place]) for place in places]
    return [_Pick(tables[origins[index]], keys[index], place + 1, means[index]) for place, index in picks], len(order)


def evenly_spaced(total: int, count: int) -> list[int]:
    """Up to `count` different indices at equal distances from first to last of `total`; a single one lies in the middle."""
    if count == 1 and total:
        return [(total - 1) // 2]
    return sorted({int(place) for place in np.linspace(0, total - 1, min(count, total)).round()})


def missing_images(table: Path, results: Path) -> str | None:
    """Which shard behind a score table is not there, or None."""
    gone = [tar for tar in tars_behind(table, results) if not (tar.is_file() and index_path(tar).is_file())]
    places = " and ".join(str(tar.relative_to(results)) for tar in gone)
    return f"{places} {'is' if len(gone) == 1 else 'are'} not there" if gone else None


def _show_table(results: Path, source: str, table: Path, picks: list[_Pick], size: int, output: Path) -> list[ShownBag]:
    """The picked bags of one shard."""
    keys = pa.array([pick.key for pick in picks])
    scores = read_table(table, ["key", "view_a", "view_b", "status", "reason", "gs", "ls", "nps"])
    rows = scores.filter(pc.and_(pc.is_in(scores["key"], keys), pc.equal(scores["view_a"], 0))).to_pylist()
    images = _Thumbnails(table, results, size, output / FIGURES / BAGS / source)
    shown = []
    for pick in picks:
        members = [ShownView(0, *images.write(pick.key, 0, f"{pick.rank:07d}-0.jpg"))]
        for row in (row for row in rows if row["key"] == pick.key):
            view_index = row["view_b"]
            image, problem = images.write(pick.key, view_index, f"{pick.rank:07d}-{view_index}.jpg")
            members.append(ShownView(view_index, image, problem, scores=row))
        shown.append(ShownBag(pick.key, images.class_name(pick.key), pick.rank, pick.mean_nps, members))
    return shown


class _Thumbnails:
    """Thumbnails of the images behind one score table; shards that are gone give a problem instead of an image."""

    def __init__(self, table: Path, results: Path, size: int, folder: Path) -> None:
        self._problem = missing_images(table, results)
        self._bags = None if self._problem else Bags(*([tar] for tar in tars_behind(table, results)))
        self._size, self._folder = size, folder

    def class_name(self, key: str) -> str | None:
        """Class of a real image, where it has one."""
        if self._bags is None or key not in self._bags:
            return None
        return self._bags.row(self._bags.bag(self._bags.position(key)).rows[0]).class_name

    def write(self, key: str, view_index: int, name: str) -> tuple[str | None, str | None]:
        """Write one thumbnail; (its place in the report, None), or (None, why there is none)."""
        if self._bags is None:
            return None, self._problem
        bag = self._bags.bag(self._bags.position(key)) if key in self._bags else None
        if bag is None or view_index not in bag.view_indices:
            return None, "not in its shard"
        try:
            image = self._bags.image(bag.rows[bag.view_indices.index(view_index)])
        except ImageError as error:
            return None, str(error)
        image.thumbnail((self._size, self._size), Image.Resampling.LANCZOS)
        write_bytes(self._folder / name, encode_jpeg(image, THUMBNAIL_QUALITY))
        return "/".join((*self._folder.parts[-3:], name)), None
