"""Finished outputs under a second name: kept, deleted, put back; refused when they are of something else or damaged."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from cdgmae.storage.files.output_cache import NOTHING_KEPT, FinishedCopy, FinishedFolder
from cdgmae.storage.tables import stats_digest

MADE_FROM = {"settings": "abc", "seed": 0}


@pytest.fixture
def outputs(tmp_path: Path) -> list[Path]:
    """A data file, a folder with a folder in it, an empty folder, and the file that later stages wait for."""
    results = tmp_path / "results"
    (results / "panels" / "deep").mkdir(parents=True)
    (results / "empty").mkdir()
    (results / "data.tar").write_bytes(b"many bytes")
    (results / "panels" / "a.png").write_bytes(b"a")
    (results / "panels" / "deep" / "b.png").write_bytes(b"b")
    (results / "panels" / ".snakemake_timestamp").touch()
    (results / "index.parquet").write_bytes(b"index")
    return [results / name for name in ("data.tar", "panels", "empty", "index.parquet")]


def kept(outputs: list[Path], folder: Path, reuse: bool = True, **made_from: object) -> FinishedCopy:
    return FinishedFolder(folder, reuse).copy_of(outputs, {**MADE_FROM, **made_from})


def delete(outputs: list[Path]) -> None:
    shutil.rmtree(outputs[0].parent)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_deleted_outputs_come_back_as_new_files_with_the_same_bytes(
    outputs: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy, before = kept(outputs, tmp_path / "kept"), content(outputs[0].parent)
    assert copy.restore() is None
    assert copy.keep({"output": str(outputs[0]), "views": 3}) == {"output": str(outputs[0]), "views": 3}
    assert (tmp_path / "kept/data.tar").samefile(outputs[0])  # no second copy of the bytes
    os.utime(outputs[0], (1, 1))
    delete(outputs)
    with caplog.at_level(logging.INFO, logger="cdgmae"):
        assert copy.restore() == {"output": str(outputs[0]), "views": 3, "restored": True}
    assert "reuse_finished: false" in caplog.text
    assert content(outputs[0].parent) == before
    assert outputs[2].is_dir()
    assert not (outputs[1] / ".snakemake_timestamp").exists()
    assert outputs[0].stat().st_mtime > 1_000_000
    assert copy.restore() is not None  # where all is in its place, too
    assert content(outputs[0].parent) == before
    assert not list(outputs[0].parent.rglob(".*"))


def test_the_file_that_later_stages_wait_for_comes_last(
    outputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = kept(outputs, tmp_path / "kept")
    copy.keep({})
    outputs[-1].unlink()
    outputs[-1].write_bytes(b"index of something else")
    outputs[0].unlink()
    link, seen = os.link, []

    def watched(source: Path, target: Path) -> None:
        seen.append((Path(source).name, outputs[-1].exists()))
        link(source, target)

    monkeypatch.setattr(os, "link", watched)
    assert copy.restore() is not None
    assert [name for name, _ in seen] == ["data.tar", "a.png", "b.png", "index.parquet"]
    assert not any(there for _, there in seen)
    assert outputs[-1].read_bytes() == b"index"


@pytest.mark.parametrize("changed", [{"settings": "abd"}, {"seed": 1}])
def test_outputs_of_something_else_are_removed(
    outputs: list[Path], tmp_path: Path, changed: dict, caplog: pytest.LogCaptureFixture
) -> None:
    kept(outputs, tmp_path / "kept").keep({})
    delete(outputs)
    assert kept(outputs, tmp_path / "kept", **changed).restore() is None
    assert "other settings" in caplog.text
    assert not list((tmp_path / "kept").iterdir())
    assert not outputs[0].exists()


def test_another_version_makes_them_anew(outputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(outputs, tmp_path / "kept").keep({})
    monkeypatch.setattr("cdgmae.storage.files.output_cache.__version__", "99")
    assert kept(outputs, tmp_path / "kept").restore() is None


@pytest.mark.parametrize("damage", ["bytes", "size", "missing", "added", "record", "folder"])
def test_damaged_copies_are_removed(outputs: list[Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "kept"
    copy = kept(outputs, folder)
    copy.keep({})
    delete(outputs)
    if damage == "bytes":
        (folder / "data.tar").write_bytes(b"many bytez")
    elif damage == "size":
        (folder / "panels/deep/b.png").write_bytes(b"bb")
    elif damage == "missing":
        (folder / "panels/a.png").unlink()
    elif damage == "added":
        (folder / "panels/c.png").write_bytes(b"c")
    elif damage == "record":
        copy.record_path.write_text(copy.record_path.read_text()[:40])
    else:
        (folder / "empty").rmdir()
    assert copy.restore() is None
    assert "removed and the work done anew" in caplog.text
    assert not list(folder.iterdir())


def test_a_copy_without_its_record_counts_for_nothing_and_is_replaced(
    outputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = kept(outputs, tmp_path / "kept")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cdgmae.storage.files.output_cache.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            copy.keep({})
    assert copy.restore() is None
    outputs[0].unlink()
    outputs[0].write_bytes(b"made again")
    copy.keep({})
    delete(outputs)
    assert copy.restore() is not None
    assert outputs[0].read_bytes() == b"made again"


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.ENOTSUP])
def test_where_links_are_impossible_the_files_are_copied(
    outputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def impossible(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", impossible)
    copy, before = kept(outputs, tmp_path / "kept"), content(outputs[0].parent)
    copy.keep({})
    assert not (tmp_path / "kept/data.tar").samefile(outputs[0])
    delete(outputs)
    assert copy.restore() is not None
    assert content(outputs[0].parent) == before


def test_what_cannot_be_kept_is_a_warning(
    outputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    copy = kept(outputs, tmp_path / "kept")
    assert copy.keep({"views": 3}) == {"views": 3}
    assert "No space left" in caplog.text
    assert copy.restore() is None


def test_without_reuse_the_record_is_ignored_and_rewritten(outputs: list[Path], tmp_path: Path) -> None:
    kept(outputs, tmp_path / "kept").keep({"round": 1})
    delete(outputs)
    anew = kept(outputs, tmp_path / "kept", reuse=False)
    assert anew.restore() is None
    for output in outputs[:3:2]:
        output.parent.mkdir(exist_ok=True)
    outputs[0].write_bytes(b"round two")
    for folder in outputs[1:3]:
        folder.mkdir()
    outputs[3].write_bytes(b"index two")
    anew.keep({"round": 2})
    delete(outputs)
    assert kept(outputs, tmp_path / "kept").restore() == {"round": 2, "restored": True}
    assert content(outputs[0].parent) == {"data.tar": b"round two", "index.parquet": b"index two"}


def test_facts_name_the_files_where_they_are_now(outputs: list[Path], tmp_path: Path) -> None:
    kept(outputs, tmp_path / "kept").keep({"output": str(outputs[0]), "name": "x"})
    moved = [tmp_path / "elsewhere" / output.name for output in outputs]
    assert kept(moved, tmp_path / "kept").restore() == {"output": str(moved[0]), "name": "x", "restored": True}


def test_nothing_is_kept_without_a_folder(outputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy = NOTHING_KEPT.copy_of(outputs, MADE_FROM)
    copy.keep({})
    assert copy.restore() is None
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_the_record_says_what_is_kept(outputs: list[Path], tmp_path: Path) -> None:
    copy = kept(outputs, tmp_path / "kept")
    copy.keep({})
    assert copy.record_path == tmp_path / "kept/index.parquet.finished.json"
    record = json.loads(copy.record_path.read_text())
    assert set(record["files"]) == {"data.tar", "panels/a.png", "panels/deep/b.png", "index.parquet"}
    assert record["files"]["data.tar"][0] == len(b"many bytes")


def test_a_changed_file_has_other_stats(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    digests = [stats_digest([file])]
    for data in (b"one", b"three"):
        file.write_bytes(data)
        digests.append(stats_digest([file]))
    os.utime(file, (1, 1))
    assert len({*digests, stats_digest([file])}) == 4
