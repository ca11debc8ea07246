from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdgmae.storage.files.atomic import atomic_file, atomic_folder, explain_write_errors, temporary_name, write_bytes, write_text
from cdgmae.storage.files.locks import exclusive_writer


@contextmanager
def files_limited_to(num_bytes: int) -> Iterator[None]:
    """Writing past this many bytes fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "deep/er/a.txt", "grüße")
    assert (tmp_path / "deep/er/a.txt").read_text(encoding="utf-8") == "grüße"
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["a.txt"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail_halfway() -> None:
        with atomic_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path) -> None:
    write_text(tmp_path / "a.bin", "old")
    with (
        files_limited_to(1000),
        pytest.raises(ValueError, match=r"a\.bin cannot be written.*Free space"),
        explain_write_errors(tmp_path / "a.bin"),
    ):
        write_bytes(tmp_path / "a.bin", bytes(100_000))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.bin", "old")]


def test_leftovers_of_a_killed_attempt_are_removed_by_the_next_writer_and_no_others(tmp_path: Path) -> None:
    for target in ("a.tar", "a.parquet", "a", "ab.tar"):
        temporary_name(tmp_path / target).write_text("left over")
    temporary_name(tmp_path / "a.tar").mkdir()
    with exclusive_writer(tmp_path / "a.tar"):
        write_text(tmp_path / "a.tar", "new")
    left = sorted(path.name.rpartition("~")[0] or path.name for path in tmp_path.iterdir())
    assert left == [".a", ".ab.tar", "a.tar"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as one, atomic_file(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "one")]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "out") as folder:
            (folder / content).write_text(content)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_a_folder_s_place_is_replaced_and_what_it_leads_to_stays(tmp_path: Path, there: bool) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / ("other" if there else "gone"))
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]
    assert not (tmp_path / "out").is_symlink()


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("old")

    def interrupted() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "out/a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_where_a_folder_is_needed_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"), explain_write_errors(tmp_path / "file/a"):
        write_text(tmp_path / "file/a", "x")
