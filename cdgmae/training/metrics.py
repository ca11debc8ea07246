"""The metrics of a training: one row per optimiser step, appended to Parquet part files while it runs.

The table has no gap and no double row however often the training was killed: rows after the saved state that it goes on from are
dropped, and are written again, with the same values, by the steps that are taken again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa

from cdgmae.storage.tables import TableError, read_table, write_table

logger = logging.getLogger("cdgmae")

METRICS_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("grad_norm", pa.float64(), nullable=False),
        pa.field("samples_per_second", pa.float64(), nullable=False),
        pa.field("data_wait_share", pa.float64(), nullable=False),
        pa.field("gpu_memory_mb", pa.float64()),
    ]
)
"""One row per optimiser step."""

MACHINE_COLUMNS = ("samples_per_second", "data_wait_share", "gpu_memory_mb")
"""Columns about the machine (samples over all devices; share of the time spent waiting for data; peak memory of the first GPU, null on
a CPU); all others are the same whenever and however often a run was cut."""

PART_ROWS = 5000
"""Rows of a part file; only the newest part is ever written again."""

Row = dict[str, float | int | None]


class MetricsLog:
    """Rows on disk and, of the newest part, in memory."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Go on after `first_step` rows: later rows of an earlier attempt are dropped.

        Args:
            folder: Folder of the part files; made when the first part is written.
            first_step: Number of steps already taken, as the saved state says.
        """
        self._folder = folder
        self._rows: list[Row] = []
        for path in sorted(folder.glob("*.parquet")):
            if int(path.stem) >= first_step:
                path.unlink()
            elif first_step - int(path.stem) < PART_ROWS:
                self._rows = _read_part(path).to_pylist()[: first_step - int(path.stem)]

    def append(self, row: Row) -> None:
        """Add the row of the next step; it reaches the disk with the next `flush`, or when a part is full."""
        self._rows.append(row)
        if len(self._rows) >= PART_ROWS:
            self.flush()
            self._rows = []

    def flush(self) -> None:
        """Write the newest part."""
        if self._rows:
            path = self._folder / f"{int(self._rows[0]['step'] or 0):09d}.parquet"
            write_table(path, self._rows, METRICS_SCHEMA)

    def table(self) -> pa.Table:
        """All rows, in order of the steps; those of a part that was damaged on disk are missing, and the log says so."""
        self.flush()
        parts = [_read_part(path) for path in sorted(self._folder.glob("*.parquet"))]
        return pa.concat_tables(parts) if parts else METRICS_SCHEMA.empty_table()


def _read_part(path: Path) -> pa.Table:
    """A part's rows; none of one that is damaged: the training that it tells of is worth more than they are."""
    try:
        return read_table(path)
    except TableError as error:
        logger.warning("%s is damaged (%s): its rows of metrics are lost, the training goes on", path, error)
        path.unlink()
        return METRICS_SCHEMA.empty_table()
