"""What a plan finds damaged, without a workflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdgmae.config import check_config
from cdgmae.storage.files.publishing import published
from cdgmae.workflow.damage import damaged_results


def test_a_link_to_nothing_counts_as_lost_and_ends_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = check_config({"shards": {"datasets": {"photos": {"path": "photos"}}}})
    tables = [Path(f"results/consistency/s_ldm/{number:05d}.parquet") for number in range(3)]
    for table in tables:
        table.parent.mkdir(parents=True, exist_ok=True)
        with published(table):
            table.write_bytes(b"rows")
    assert damaged_results(config) == {}
    tables[0].unlink()
    tables[0].symlink_to("gone")
    tables[1].unlink()
    tables[1].symlink_to(tables[1].name)
    os.utime(tables[2])
    assert damaged_results(config) == {str(table): f"{table} is a link to nothing" for table in tables[:2]}
