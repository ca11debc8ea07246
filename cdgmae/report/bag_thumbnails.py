"""Bags of views for the page: chosen evenly over the NPS ranking, with thumbnails and scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from cdgmae.settings.report import ReportSettings
from cdgmae.storage.files.atomic import write_bytes
from cdgmae.storage.image_shards import BAD, OK, ImageRow, ImageShard, index_path
from cdgmae.storage.media.images import ImageError, decode_rgb, encode_jpeg
from cdgmae.storage.tables import read_table, table_facts

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


def show_bags(results: Path, source: str, settings: ReportSettings, output: Path) -> SourceBags | None:
    """Choose bags of one source and write their thumbnails below `output`/figures/bags.

    Bags are ranked by the mean NPS of their views and taken at equal distances of rank, so that the worst, the best and those
    between are seen in the proportion in which they exist. Pairs of two views, and crops, are left out: a bag's images stand with
    what they score against its real image.

    Returns:
        The bags, lowest NPS first, or None if the source has no scored pair with a real image.
    """
    picks, num_bags = _choose(sorted((results / "consistency" / source).glob("*.parquet")), settings.num_bags)
    if not picks:
        return None
    bags: dict[int, ShownBag] = {}
    for table in sorted({pick.table for pick in picks}):
        chosen = [pick for pick in picks if pick.table == table]
        bags.update((bag.rank, bag) for bag in _show_table(results, source, table, chosen, settings.thumbnail_size, output))
    return SourceBags(source, num_bags, [bags[pick.rank] for pick in picks])


def _choose(tables: list[Path], count: int) -> tuple[list[_Pick], int]:
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


def _show_table(results: Path, source: str, table: Path, picks: list[_Pick], size: int, output: Path) -> list[ShownBag]:
    """The picked bags of one shard."""
    keys = pa.array([pick.key for pick in picks])
    scores = read_table(table, ["key", "view_a", "view_b", "status", "reason", "gs", "ls", "nps"])
    rows = scores.filter(pc.and_(pc.is_in(scores["key"], keys), pc.equal(scores["view_a"], 0))).to_pylist()
    real = _Images(results / "shards" / f"{table_facts(table).get('real_shard', 'unknown')}.tar", keys)
    views = _Images(results / "views" / source / f"{table.stem}.tar", keys)
    shown = []
    for pick in picks:
        thumbnails = PurePosixPath(FIGURES, BAGS, source)
        members = [ShownView(0, *real.thumbnail(pick.key, 0, size, output, thumbnails / f"{pick.rank:07d}-0.jpg"))]
        for row in (row for row in rows if row["key"] == pick.key):
            place = thumbnails / f"{pick.rank:07d}-{row['view_b']}.jpg"
            members.append(ShownView(row["view_b"], *views.thumbnail(pick.key, row["view_b"], size, output, place), scores=row))
        shown.append(ShownBag(pick.key, real.class_name(pick.key), pick.rank, pick.mean_nps, members))
    return shown


class _Images:
    """The images of a few keys of one shard; a shard that is gone gives a problem instead of an image."""

    def __init__(self, tar: Path, keys: pa.Array) -> None:
        self._tar, self._shard = tar, None
        self._rows: dict[tuple[str, int], ImageRow] = {}
        if tar.is_file() and index_path(tar).is_file():
            self._shard = ImageShard(tar)
            index = self._shard.index
            chosen = index.filter(pc.is_in(index["key"], keys)).to_pylist()
            self._rows = {(row["key"], row["view_index"]): ImageRow(**row) for row in chosen}

    def class_name(self, key: str) -> str | None:
        row = self._rows.get((key, 0))
        return row.class_name if row is not None else None

    def thumbnail(
        self, key: str, view_index: int, size: int, output: Path, place: PurePosixPath
    ) -> tuple[str | None, str | None]:
        """Write one thumbnail; (its place, None), or (None, why there is none)."""
        row = self._rows.get((key, view_index))
        if self._shard is None or row is None:
            return None, f"{self._tar.parent.name}/{self._tar.name} is not there" if self._shard is None else "not in its shard"
        if row.status == BAD:
            return None, row.reason
        try:
            image = decode_rgb(self._shard.read(row))
        except ImageError as error:
            return None, str(error)
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        write_bytes(output / place, encode_jpeg(image, THUMBNAIL_QUALITY))
        return str(place), None
