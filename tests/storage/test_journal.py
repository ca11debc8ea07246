"""The journal: one flipped byte costs one record, a torn end costs what was not promised, and foreign records never count."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from cdgmae.storage.journal import DATA_SUFFIX, LINE_SUFFIX, Journal, NewRecord

RECORDS = {f"r{number}": bytes([10, number, 10]) * (number + 3) for number in range(4)}


def written(folder: Path) -> Journal:
    """A journal of two slots with two records each."""
    journal = Journal(folder, "these settings", "views")
    for slot, names in enumerate((("r0", "r1"), ("r2", "r3"))):
        with journal.claim(f"{slot:03d}") as writer:
            for name in names:
                writer.append([NewRecord(name, {"length of name": len(name), "text": "a\nb"}, RECORDS[name])])
    return journal


def contents(journal: Journal) -> dict[str, bytes]:
    return {name: record.data() for name, record in journal.records().items()}


def test_every_flipped_byte_costs_its_record_alone_and_names_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "whole")
    caplog.set_level(logging.WARNING, "cdgmae")
    flips = 0
    for suffix in (LINE_SUFFIX, DATA_SUFFIX):
        size = (tmp_path / f"whole/000{suffix}").stat().st_size
        for place in range(0, size, 1 if size < 100 else 7):
            folder = tmp_path / f"{suffix[1:]}-{place}"
            shutil.copytree(tmp_path / "whole", folder)
            path = folder / f"000{suffix}"
            data = bytearray(path.read_bytes())
            data[place] ^= 64
            path.write_bytes(data)
            caplog.clear()
            found = contents(Journal(folder, "these settings", "views"))
            assert found.items() < RECORDS.items()
            assert len(found) == 3, (suffix, place)
            assert "made again" in caplog.text
            assert str(path) in caplog.text
            with Journal(folder, "these settings", "views").claim("000") as writer:
                writer.append([NewRecord(name, {}, RECORDS[name]) for name in RECORDS.keys() - found.keys()])
            assert contents(Journal(folder, "these settings", "views")) == RECORDS
            flips += 1
    assert flips > 50


def test_a_torn_end_is_passed_over_and_written_after(tmp_path: Path) -> None:
    journal = written(tmp_path)
    lines = tmp_path / f"001{LINE_SUFFIX}"
    whole = lines.read_bytes()
    for cut in (1, 2, 40, len(whole) // 2 - 1):
        lines.write_bytes(whole[:-cut])
        assert "r3" not in journal.records()
        with journal.claim("001") as writer:
            writer.append([NewRecord("r3", {}, RECORDS["r3"])])
        assert contents(journal) == RECORDS


def test_foreign_records_do_not_count_and_leave_the_slot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path)
    other = Journal(tmp_path, "other settings", "views")
    assert other.records() == {}
    assert f"{tmp_path / '000.jsonl'}: records of other settings or inputs" in caplog.text
    with other.claim("000") as writer:
        writer.append([NewRecord("new", {}, b"x")])
    assert contents(other) == {"new": b"x"}
    assert os.path.getsize(tmp_path / "000.bin") == 1


def test_bytes_that_are_gone_cost_their_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = written(tmp_path)
    (tmp_path / "000.bin").unlink()
    assert set(journal.records()) == {"r2", "r3"}
    assert "000.bin is missing" in caplog.text
