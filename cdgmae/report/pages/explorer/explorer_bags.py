"""The chosen bags as the page opens them: images in one strip, scores of every pair, nearest patches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from cdgmae.consistency.data_set import open_scores
from cdgmae.consistency.query import open_bags
from cdgmae.consistency.score_tables import COMPARED, NEAREST_COLUMNS
from cdgmae.consistency.scoring.pair_images import BagImage, BagLoader
from cdgmae.report.bag_thumbnails import missing_images
from cdgmae.report.pages.explorer.bag_selection import ChosenBag
from cdgmae.storage.files.atomic import write_bytes
from cdgmae.storage.media.images import encode_jpeg
from cdgmae.storage.tables import table_metadata

IMAGES = "images"
STRIP_QUALITY = 80
PAIR_COLUMNS = ("key", "class_name", "view_a", "view_b", *COMPARED, "reason", *NEAREST_COLUMNS)
NO_ROOM = "left out, so that the report stays small"


@dataclass(slots=True)
class ShownBag:
    """One bag on the page.

    Attributes:
        data: What the page's script reads, JSON-able: key, source, class, rules, scores, `side` (patches to a side), `views` (their
            view_index in order of the strip, and why one alone has no image), `pairs`, `strip` (address or None) and `problem` (why there is none).
        strip: JPEG of all images side by side, squares of equal size, or None.
    """

    data: dict[str, Any]
    strip: bytes | None

    def num_bytes(self) -> int:
        """Size of the images and, as text, of the pairs with their nearest patches."""
        return len(self.strip or b"") + len(json.dumps(self.data["pairs"], separators=(",", ":")))


def show_bags(chosen: Sequence[ChosenBag], results: Path, folder: Path, size: int, budget: int) -> list[dict[str, Any]]:
    """Describe the chosen bags and write their strips to `folder`/images.

    Args:
        chosen: Bags in order of importance.
        results: Folder with the results of the stages.
        folder: Folder of the page.
        size: Side in pixels of an image in a strip; less where images were compared at a smaller size.
        budget: Bytes of strips and pairs together; the bags behind those that fit have scores alone.

    Returns:
        `ShownBag.data` of every bag, in the given order.
    """
    shown: dict[tuple[str, str], ShownBag] = {}
    for table in sorted({bag.table for bag in chosen}):
        members = [bag for bag in chosen if bag.table == table]
        shown |= {
            (bag.source, bag.key): shown_bag
            for bag, shown_bag in zip(members, _read_table(table, members, results, size), strict=True)
        }
    spent = 0
    for place, bag in enumerate(shown[bag.source, bag.key] for bag in chosen):
        spent += bag.num_bytes()
        if spent > budget:
            bag.data |= {"pairs": [], "problem": NO_ROOM}
        elif bag.strip is not None:
            bag.data["strip"] = f"{IMAGES}/{place:04d}.jpg"
            write_bytes(folder / bag.data["strip"], bag.strip)
    return [shown[bag.source, bag.key].data for bag in chosen]


def _read_table(table: Path, members: Sequence[ChosenBag], results: Path, size: int) -> list[ShownBag]:
    """The members of one score table."""
    keys, metadata = pa.array([bag.key for bag in members]), table_metadata(table)
    rows = open_scores([table]).to_table(list(PAIR_COLUMNS), filter=pc.field("key").isin(keys)).to_pylist()
    loader, problem = _open_images(table, results)
    shown = []
    for bag in members:
        mine = [row for row in rows if row["key"] == bag.key]
        pairs = [_pair(row) for row in mine]
        strip, views, lack = _draw_strip(loader, bag.key, size) if loader is not None else (None, [], problem)
        views = views or [{"index": index} for index in sorted({pair[end] for pair in pairs for end in "ab"})]
        shown.append(ShownBag({
            "key": bag.key, "source": bag.source, "class": mine[0]["class_name"], "rules": bag.rules,
            **{name: round(value, 4) for name, value in bag.scores.items()},
            "side": int(metadata["image_size"]) // int(metadata["patch_size"]) if "patch_size" in metadata else None,
            "views": views, "strip": None, "problem": lack, "pairs": pairs,
        }, strip))  # fmt: skip
    return shown


def _pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """One pair: its views, scores, and for each patch of view `a` the nearest of `b` with the similarity in hundredths."""
    pair = {"a": row["view_a"], "b": row["view_b"]} | {metric: _rounded(row[metric]) for metric in COMPARED}
    if row["reason"]:
        pair["reason"] = row["reason"]
    if row["nearest_patches"] is not None:
        pair["nearest"] = row["nearest_patches"]
        # Tables of earlier versions hold the numbers alone.
        pair["similarity"] = [round(100 * value) for value in row["nearest_similarities"] or []]
    return pair


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _open_images(table: Path, results: Path) -> tuple[BagLoader | None, str | None]:
    """The images behind a score table, or why there are none."""
    if problem := missing_images(table, results):
        return None, problem
    try:
        return open_bags(table, results / "consistency"), None
    except ValueError as error:  # shards that no longer fit together or cannot be read; the scores can still be shown
        return None, str(error)


def _draw_strip(loader: BagLoader, key: str, size: int) -> tuple[bytes | None, list[dict[str, Any]], str | None]:
    """(strip, views, None), or (None, views, why)."""
    try:
        images = loader.load(key).images
    except KeyError:
        return None, [], "its shard no longer holds this bag"
    sides = [bag_image.image.width for bag_image in images if bag_image.image is not None]
    views = [_view(bag_image) for bag_image in images]
    if not sides:
        return None, views, "no image of this bag can be read"
    side = min(size, *sides)
    strip = Image.new("RGB", (side * len(images), side), "#f5f6f8")
    for place, bag_image in enumerate(images):
        if bag_image.image is not None:
            strip.paste(bag_image.image.resize((side, side), Image.Resampling.LANCZOS), (place * side, 0))
    return encode_jpeg(strip, STRIP_QUALITY), views, None


def _view(bag_image: BagImage) -> dict[str, Any]:
    return {"index": bag_image.view_index} | ({"problem": bag_image.reason} if bag_image.reason else {})
