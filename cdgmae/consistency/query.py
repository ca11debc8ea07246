"""Pairs that meet a condition, found over all score tables without holding them, and strips of their bags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from cdgmae.consistency.data_set import open_scores, score_tables
from cdgmae.consistency.score_tables import QUERY_COLUMNS
from cdgmae.consistency.scoring.pair_images import BagLoader, CropBags, ViewBags
from cdgmae.settings.consistency import CropDrawSettings
from cdgmae.storage.expressions import arrow_filter
from cdgmae.storage.files.atomic import atomic_file
from cdgmae.storage.media.strips import join_strip
from cdgmae.storage.tables import table_metadata

FILE_COLUMN = "__filename"
ORDER = ("source", "key", "view_a", "view_b")

SHOWN = 20
"""Pairs that are shown where nothing else is asked for."""

ROWS_AT_ONCE = 100_000
"""Rows that are handed on, and sorted among those to be shown, at once."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The answer to a query.

    Attributes:
        total: Pairs that meet the condition.
        of: Pairs that were looked at.
        rows: The first of them in the asked order: `QUERY_COLUMNS` and the file each row is from.
    """

    total: int
    of: int
    rows: pa.Table

    def shown(self) -> list[dict[str, Any]]:
        """The rows for people and programs, without the file."""
        rows: list[dict[str, Any]] = self.rows.select(QUERY_COLUMNS).to_pylist()
        return rows


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of the score tables.

    Attributes:
        results: Folder with one folder of tables per source.
        expression: Condition on `QUERY_COLUMNS`, e.g. `nps < 0.5 and gs > 0.95`; a pair without scores meets no condition on them.
        source: Name of a source; all if left out.
        sort: Column to order by, pairs without a value last, equal ones by source, key and views; default: in order of the tables.
        descending: Largest first.
    """

    results: Path
    expression: str
    source: str | None = None
    sort: str | None = None
    descending: bool = False

    def first(self, limit: int) -> Matches:
        """The first rows, and how many match. Tables are read batch by batch and only the rows to be given are kept.

        Raises:
            ValueError: if the expression or the column is not understood, or there are no tables.
        """
        if limit < 1:
            raise ValueError(f"--limit {limit}: at least 1 row must be asked for")
        data = open_scores(score_tables(self.results, self.source))
        scanner = self._scan(data)
        total, first = 0, scanner.projected_schema.empty_table()
        for batch in scanner.to_batches():
            total += batch.num_rows
            if batch.num_rows and (self.sort is not None or first.num_rows < limit):
                first = pa.concat_tables([first, pa.Table.from_batches([batch])])
                if self.sort is None or first.num_rows > 2 * limit + ROWS_AT_ONCE:
                    first = self._first(first, limit)
        return Matches(total, data.count_rows(), self._first(first, limit))

    def all(self) -> Iterator[pa.Table]:
        """All rows with `QUERY_COLUMNS`, part by part. Without `sort` one table is held at a time; an order holds all that match.

        Raises:
            ValueError: as `first`.
        """
        condition, tables = self._condition(), score_tables(self.results, self.source)
        parts = (open_scores([path]).to_table(list(QUERY_COLUMNS), filter=condition) for path in tables)
        if self.sort is None:
            yield from parts
            return
        rows = pa.concat_tables(parts)
        order = pc.sort_indices(rows, sort_keys=self._keys())
        for start in range(0, rows.num_rows, ROWS_AT_ONCE):
            yield rows.take(order.slice(start, ROWS_AT_ONCE))

    def _scan(self, data: ds.Dataset) -> ds.Scanner:
        """Whole row groups that cannot match are skipped."""
        columns = [*QUERY_COLUMNS, FILE_COLUMN]
        return data.scanner(columns=columns, filter=self._condition(), batch_readahead=4, fragment_readahead=2)

    def _condition(self) -> pc.Expression:
        if self.sort is not None and self.sort not in QUERY_COLUMNS:
            raise ValueError(f"--sort {self.sort}: no such column; columns: {', '.join(QUERY_COLUMNS)}")
        return arrow_filter(self.expression, QUERY_COLUMNS)

    def _keys(self) -> list[tuple[str, str]]:
        direction = "descending" if self.descending else "ascending"
        return [(str(self.sort), direction), *((name, "ascending") for name in ORDER if name != self.sort)]

    def _first(self, table: pa.Table, limit: int) -> pa.Table:
        if self.sort is None:
            return table.slice(0, limit)
        return (
            table.take(pc.select_k_unstable(table, min(limit, table.num_rows), sort_keys=self._keys()))
            if table.num_rows
            else table
        )


def write_strips(matches: Matches, results: Path, folder: Path) -> list[Path]:
    """Write one strip per bag of the shown rows: all its images as they were compared, those of a shown pair framed.

    Args:
        matches: See `Query.first`.
        results: The folder that was queried, `.../consistency`; shards and views are looked for beside it.
        folder: Where to write `{rank}_{source}_{key}.png`, rank in order of the rows.

    Returns:
        The strips, in order.

    Raises:
        ValueError: if the images are no longer there.
    """
    loaders: dict[str, BagLoader] = {}
    framed: dict[tuple[str, str, str], set[int]] = {}
    for row in matches.rows.select([FILE_COLUMN, *ORDER]).to_pylist():
        views = framed.setdefault((row[FILE_COLUMN], row["source"], row["key"]), set())
        views.update({row["view_a"], row["view_b"]} - {0})
    strips = []
    for rank, ((table, source, key), views) in enumerate(framed.items(), start=1):
        if table not in loaders:
            loaders[table] = open_bags(Path(table), results)
        images = [image for image in loaders[table].load(key).images if image.image is not None]
        if not images:
            continue
        path = folder / f"{rank:03d}_{source}_{key}.png"
        places = [place for place, image in enumerate(images) if image.view_index in views]
        with atomic_file(path) as temporary:
            join_strip([image.image for image in images if image.image is not None], places).save(temporary, format="PNG")
        strips.append(path)
    return strips


def open_bags(table: Path, results: Path) -> BagLoader:
    """The images behind one score table, found by the metadata in its metadata.

    Args:
        table: Score table.
        results: Folder of the consistency stage, `.../consistency`; shards and views are looked for beside it.

    Raises:
        ValueError: if the images are no longer there.
    """
    real_tar, *view_tars = tars = tars_behind(table, results.resolve().parent)
    if missing := [tar for tar in tars if not tar.is_file()]:
        raise ValueError(f"images of {table} are not there: no {missing[0]}; leave out --images, or run where the shards are")
    metadata = table_metadata(table)
    if view_tars:
        return ViewBags(real_tar, view_tars[0], int(metadata["image_size"]))
    return CropBags(real_tar, CropDrawSettings.from_plain(metadata["crops"]), int(metadata["image_size"]))


def tars_behind(table: Path, results: Path) -> list[Path]:
    """The shards whose images were scored, from the metadata in a score table: real images and, unless crops were scored, views.

    Args:
        table: Score table.
        results: Folder with the results of all stages.
    """
    metadata = table_metadata(table)
    real_tar = results / "shards" / f"{metadata.get('real_shard', 'unknown')}.tar"
    view_tar = results / "views" / str(metadata.get("source")) / f"{table.stem}.tar"
    return [real_tar, view_tar] if metadata.get("crops") is None else [real_tar]
