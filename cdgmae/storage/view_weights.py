"""Weights of views from the tables of stage `consistency`: which views may be drawn, and how often.

The tables are read by column name: `key`, `view_a` (0, the real image), `view_b` (the view's view_index) and the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdgmae.settings.pretrain import SCORE_COLUMNS
from cdgmae.storage.expressions import arrow_filter
from cdgmae.storage.tables import read_table


@dataclass(frozen=True, slots=True)
class ViewWeights:
    """How views of a bag are weighted by their scores against the real image."""

    tables: Sequence[Path]
    """Score tables of one view source."""

    view_filter: str | None = None
    """Condition on the scores; a view that fails it, or has no score, weighs 0."""

    view_weight: str | None = None
    """Score that is the weight, clipped at 0; null: views that pass weigh 1."""

    def of(self, keys: pa.Array, bags: npt.NDArray[np.int64], view_indices: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """The weight of each generated view; 0 where no row of the tables passes.

        Args:
            keys: Key of each bag, unique.
            bags: Position in `keys` of each view.
            view_indices: view_index of each view.
        """
        scores = pa.concat_tables([self._read(path) for path in self.tables])
        positions = pc.index_in(scores["key"], value_set=keys).combine_chunks()
        known = positions.is_valid().to_numpy(zero_copy_only=False)
        scored_bags = positions.fill_null(0).to_numpy().astype(np.int64)[known]
        scored_views = scores["view_b"].to_numpy()[known]
        stride = max(int(view_indices.max(initial=0)), int(scored_views.max(initial=0))) + 1
        pairs, wanted = scored_bags * stride + scored_views, bags * stride + view_indices
        if not len(pairs):
            return np.zeros(len(wanted), np.float32)
        order = np.argsort(pairs)
        place = np.minimum(np.searchsorted(pairs, wanted, sorter=order), len(pairs) - 1)
        places = order[place]
        values = scores["weight"].to_numpy()[known]
        return np.where(pairs[places] == wanted, values[places], 0).astype(np.float32)

    def _read(self, path: Path) -> pa.Table:
        """Columns key, view_b and weight of the rows that pass."""
        table = read_table(path, ["key", "view_a", "view_b", *SCORE_COLUMNS])
        condition = pc.field("view_a") == 0
        if self.view_filter is not None:
            condition &= arrow_filter(self.view_filter, SCORE_COLUMNS)
        table = table.filter(condition)
        weight = pc.fill_null(table[self.view_weight], 0.0) if self.view_weight else pa.array(np.ones(len(table), np.float32))
        return pa.table(
            {"key": table["key"], "view_b": table["view_b"], "weight": pc.max_element_wise(weight, 0.0).cast(pa.float32())}
        )
