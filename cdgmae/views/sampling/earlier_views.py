"""Views that an earlier shard holds, so that a changed `num_views` draws only what is new: view k depends on (seed, key, k)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from cdgmae.storage.files.output_cache import earlier_outputs
from cdgmae.storage.image_shards import OK, ImageShard, index_path
from cdgmae.storage.journal import Journal, NewRecord
from cdgmae.storage.tables import table_metadata
from cdgmae.views.sampling.batch import view_name

logger = logging.getLogger("cdgmae")

IDENTITY_KEY = "identity_of_views"
"""Fact of a view shard's index: all that a single view depends on, as the journal of the work has it."""

SLOT = "earlier"
VIEWS_AT_ONCE = 256


def copy_earlier_views(journal: Journal, output_tar: Path, missing: Sequence[str]) -> int:
    """Put views into the journal that kept shards in work/finished/ hold.

    Shards count whose views were made as the journal's are, the newest first. Bad views are left out, to be drawn again; so is what
    cannot be read.

    Args:
        journal: Of the shard to write.
        output_tar: That shard.
        missing: Names of its views that the journal lacks.

    Returns:
        How many were found.

    Raises:
        ValueError: if the journal cannot be written.
    """
    left = set(missing)
    for tar in earlier_outputs(output_tar) if left else ():
        num_copied, views = 0, _good_views(tar, frozenset(left), journal.identity)
        with journal.claim(SLOT) as writer:
            while batch := list(islice(views, VIEWS_AT_ONCE)):
                writer.append(batch)
                left -= {view.name for view in batch}
                num_copied += len(batch)
        if num_copied:
            logger.info("%d views are those of %s and are not drawn again", num_copied, tar)
    return len(missing) - len(left)


def _good_views(tar: Path, names: frozenset[str], identity: str) -> Iterator[NewRecord]:
    """Those of some views that a shard holds whole, if it was made from the same."""
    try:
        if table_metadata(index_path(tar)).get(IDENTITY_KEY) != identity:
            return
        shard = ImageShard(tar)
    except ValueError as error:
        logger.warning("%s is not read again: %s", tar, error)
        return
    for row in shard.rows(OK):
        if (name := view_name(row.key, row.view_index)) in names:
            try:
                yield NewRecord(name, asdict(row), shard.read(row))
            except ValueError as error:
                logger.warning("%s: %s is drawn again: %s", tar, name, error)
