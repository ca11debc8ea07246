"""The paper's tables and figures that are made again: their rows, and which of our sources and encoders fill them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from cdgmae.settings.base import Name, Settings
from cdgmae.settings.messages import did_you_mean

TABLE_ROWS: dict[str, tuple[str, ...]] = {
    "table1": ("video", "s_ldm", "knn", "random"),
    "table3_target": ("real", "generated", "random", "knn"),
    "table3_masking": ("r75", "r90", "r98_5"),
    "table4": ("a1", "a2", "a2_r25", "a2_r50", "a3_r25", "a3_r50"),
    "table5": ("siammae", "cropmae", "cdg_a1", "cdg_a3", "mae", "videomae", "mae_st"),
    "table8": (),
    "table9": ("video", "gen_sis", "rcg"),
    "table10": ("gen_sis", "rcg"),
    "figure4": ("siammae_16", "siammae_8", "cropmae_16", "cropmae_8", "cdg_16", "cdg_8", "conditioning"),
    "figure9": ("cropmae_100", "cropmae_200", "cropmae_400", "cdg_100"),
}
"""Table -> names of its rows, in the paper's order; what they mean and the paper's numbers are in `cdgmae.report.paper_tables`.
Table 8 counts operations by formula: nothing of ours has to be named for it."""

SOURCE_TABLES = ("table1", "table9")
"""Tables whose rows are view sources; the rows of all others are encoders."""


class TableSettings(Settings):
    """What one job needs to write one table."""

    rows: dict[Name, list[Name]] = Field(
        default={},
        description="Row of the paper's table -> what fills it: one view source, or one encoder per seed.",
    )


def table_problems(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One sentence per name in `tables` (table -> row -> anything) that the paper does not have."""
    for table, rows in tables.items():
        if table not in TABLE_ROWS:
            yield f"tables.{table}: no such table; allowed: {', '.join(TABLE_ROWS)}{did_you_mean(table, TABLE_ROWS)}"
            continue
        allowed = TABLE_ROWS[table]
        for row in rows:
            if row not in allowed:
                known = ", ".join(allowed) or "none, it is made from formulas alone"
                yield f"tables.{table}.{row}: no such row; allowed: {known}{did_you_mean(row, allowed)}"
