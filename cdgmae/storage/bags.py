"""The bag of views: one key, view 0 = the real image, views 1..M from a view source, joined by key.

This is all that pre-training and scoring see; which source filled the bags makes no difference to them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdgmae.storage.picture_shards import OK, PictureShard


@dataclass(frozen=True, slots=True)
class ViewLocation:
    """Where the bytes of one view lie."""

    shard: int
    offset: int
    length: int


@dataclass(slots=True)
class Bag:
    """One key with the places of its views: `real` and the generated ones by view_index."""

    key: str
    class_name: str | None
    real: ViewLocation
    generated: dict[int, ViewLocation] = field(default_factory=dict)


class BagStore:
    """All bags of a data set and a view source, in key order, with random access to any view's bytes."""

    def __init__(self, real_tars: Sequence[Path], view_tars: Sequence[Path] = (), *, min_views: int = 0) -> None:
        """Join real and view shards.

        Args:
            real_tars: Tars of section `shards`.
            view_tars: Tars of one view source; empty for a source without files.
            min_views: Bags with fewer generated views are left out (their views failed; the view index says why).

        Raises:
            ValueError: if a view belongs to no real image or no bag is left.
        """
        self._shards = [PictureShard(path) for path in (*real_tars, *view_tars)]
        bags: dict[str, Bag] = {}
        for number, shard in enumerate(self._shards[: len(real_tars)]):
            for row in shard.rows(OK):
                bags[row.key] = Bag(row.key, row.class_name, ViewLocation(number, row.offset or 0, row.length or 0))
        orphans: dict[str, int] = defaultdict(int)
        for number, shard in enumerate(self._shards[len(real_tars) :], start=len(real_tars)):
            for row in shard.rows(OK):
                if row.key in bags:
                    bags[row.key].generated[row.view_index] = ViewLocation(number, row.offset or 0, row.length or 0)
                else:
                    orphans[str(shard.tar_path)] += 1
        if orphans:
            raise ValueError(
                f"views without a real image: {dict(orphans)}; the views were made from other shards, rerun the views stage"
            )
        self.bags = [bags[key] for key in sorted(bags) if len(bags[key].generated) >= min_views]
        if not self.bags:
            raise ValueError(f"no bag has {min_views} generated view(s); look at status and reason in the view indices")

    def __len__(self) -> int:
        return len(self.bags)

    def read(self, location: ViewLocation) -> bytes:
        """Encoded bytes of one view."""
        return self._shards[location.shard].read_at(location.offset, location.length)
