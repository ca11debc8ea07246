"""Finished outputs under a second name: kept, deleted, put back; found again for the same command on the same files alone."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from cdgmae.settings.shards import DatasetSettings
from cdgmae.shards.manifest import write_manifest
from cdgmae.storage.files.output_cache import RECORD, OutputCache, identity_of
from cdgmae.storage.tables import read_table, stats_digest, write_table
from tests.generators.conftest import KEYS, write_shard
from tests.warm_start import warm_programs


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


def cache_of(outputs: list[Path], tmp_path: Path, identity: str = "abc") -> OutputCache:
    return OutputCache(tuple(outputs), tmp_path / "kept" / identity)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_deleted_outputs_come_back_as_new_files_with_the_same_bytes(outputs: list[Path], tmp_path: Path) -> None:
    cache, before = cache_of(outputs, tmp_path), content(outputs[0].parent)
    assert not cache.restore()
    cache.store()
    assert (cache.folder / "data.tar").samefile(outputs[0])  # no second copy of the bytes
    os.utime(outputs[0], (1, 1))
    shutil.rmtree(outputs[0].parent)
    assert cache.restore()
    assert content(outputs[0].parent) == before
    assert outputs[2].is_dir()
    assert not (outputs[1] / ".snakemake_timestamp").exists()
    assert outputs[0].stat().st_mtime > 1_000_000
    assert cache.restore()  # where all is in its place, too
    assert content(outputs[0].parent) == before
    assert not list(outputs[0].parent.rglob(".*"))


def test_outputs_of_something_else_stay_beside_each_other(outputs: list[Path], tmp_path: Path) -> None:
    first, second = (cache_of(outputs, tmp_path, identity) for identity in ("first", "second"))
    first.store()
    outputs[0].unlink()
    assert not second.restore()  # which then fails, or is made
    outputs[0].write_bytes(b"of the second")
    second.store()
    assert first.restore()
    assert outputs[0].read_bytes() == b"many bytes"
    assert second.restore()
    assert outputs[0].read_bytes() == b"of the second"


@pytest.mark.parametrize("damage", ["bytes", "size", "missing", "added", "record", "no record", "folder"])
def test_damaged_copies_are_not_put_back(
    outputs: list[Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cache_of(outputs, tmp_path)
    cache.store()
    shutil.rmtree(outputs[0].parent)
    if damage == "bytes":
        (cache.folder / "data.tar").write_bytes(b"many bytez")
    elif damage == "size":
        (cache.folder / "panels/deep/b.png").write_bytes(b"bb")
    elif damage == "missing":
        (cache.folder / "panels/a.png").unlink()
    elif damage == "added":
        (cache.folder / "panels/c.png").write_bytes(b"c")
    elif damage == "record":
        (cache.folder / RECORD).write_text((cache.folder / RECORD).read_text()[:40])
    elif damage == "no record":
        (cache.folder / RECORD).write_text("[]")
    else:
        (cache.folder / "empty").rmdir()
    assert not cache.restore()
    assert "the work is done again" in caplog.text
    assert not outputs[0].exists()


def test_a_copy_without_its_record_counts_for_nothing_and_is_replaced(
    outputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(outputs, tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cdgmae.storage.files.output_cache.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.store()
    assert not cache.restore()
    outputs[0].unlink()
    outputs[0].write_bytes(b"made again")
    cache.store()
    shutil.rmtree(outputs[0].parent)
    assert cache.restore()
    assert outputs[0].read_bytes() == b"made again"


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.ENOTSUP])
def test_where_links_are_impossible_the_files_are_copied(
    outputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def impossible(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", impossible)
    cache, before = cache_of(outputs, tmp_path), content(outputs[0].parent)
    cache.store()
    assert not (cache.folder / "data.tar").samefile(outputs[0])
    shutil.rmtree(outputs[0].parent)
    assert cache.restore()
    assert content(outputs[0].parent) == before


def test_what_cannot_be_kept_is_a_warning(
    outputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    cache = cache_of(outputs, tmp_path)
    cache.store()
    assert "No space left" in caplog.text
    assert not cache.restore()


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A command that names a shard, a folder of shards, a folder of weights, one file behind a name, and a user's folder."""
    tar = write_shard(tmp_path / "real" / "00000.tar", KEYS[:3])
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator/weights").write_bytes(b"weights")
    (tmp_path / "encoder").write_bytes(b"encoder")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/0.jpg").write_bytes(b"frame")
    (tmp_path / "real/summary.csv").write_text("ok")
    return [
        "cdgmae", "views", "make", "--settings", f'{{"root": "{tmp_path}/clips", "k": 2}}', "--shard", str(tar), "--shards",
        str(tmp_path / "real"), "--input", f"generator={tmp_path}/generator", "--encoder", f"vit@{tmp_path}/encoder", "--threads", "4",
    ]  # fmt: skip


def other_row(path: Path) -> None:
    write_shard(path, KEYS[1:4])


def other_bytes(path: Path) -> None:
    path.write_bytes(b"changed")


@pytest.mark.parametrize(
    ("file", "change"),
    [("real/00000.tar", other_row), ("generator/weights", other_bytes), ("encoder", other_bytes), ("clips/0.jpg", other_bytes)],
)
def test_a_changed_file_that_the_command_names_is_another_identity(
    command: list[str], tmp_path: Path, file: str, change: Callable[[Path], None]
) -> None:
    before = identity_of(command)
    assert identity_of(command) == before
    change(tmp_path / file)
    assert identity_of(command) != before


def test_a_file_counts_whatever_is_said_behind_its_name(tmp_path: Path) -> None:
    other_bytes(tmp_path / "encoder")
    words = [f"{tmp_path}/encoder?key=a", f"{tmp_path}/encoder?key=b", f"vit@{tmp_path}/encoder?key=a"]
    before = [identity_of(["cdgmae", word]) for word in words]
    (tmp_path / "encoder").write_bytes(b"other bytes")
    assert len({*before, *(identity_of(["cdgmae", word]) for word in words)}) == 6


def test_only_what_the_outputs_depend_on_is_in_the_identity(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity_of(command)
    assert identity_of([*command[:-1], "8"]) == before
    for option in ("--output", "--work", "--batch-size", "--max-bad-fraction", "--runtime"):
        assert identity_of([*command, option, "x"]) == before
    (tmp_path / "real/summary.csv").write_text("lies beside the shards")
    assert identity_of(command) == before
    assert identity_of([*command, "--seed", "1"]) != before
    assert identity_of(command, precision="bf16") != before
    monkeypatch.setattr("cdgmae.storage.files.output_cache.__version__", "99")
    assert identity_of(command) != before


def test_shards_that_a_data_set_no_longer_has_do_not_count(command: list[str], tmp_path: Path) -> None:
    """Two shards, three, and two again: what was made from the first two is put back."""
    schema = pa.schema([pa.field("key", pa.string())])
    for number in range(3):
        write_table(tmp_path / f"real/{number:05d}.parquet", [{"key": f"k{number}"}], schema)
        write_table(tmp_path / f"views/{number:05d}.parquet", [{"key": f"v{number}"}], schema)
    trains = [*command, "--views", str(tmp_path / "views")]
    identities = []
    for count in (2, 3, 2):
        write_table(tmp_path / "real/manifest.parquet", [], schema, extra={"num_shards": count})
        identities.append(identity_of(trains))
    assert identities[0] == identities[2] != identities[1]
    (tmp_path / "real/manifest.parquet").write_bytes(b"damaged")  # who reads it says so
    assert identity_of(trains) == identities[1]
    (tmp_path / "real/manifest.parquet").unlink()
    assert identity_of(trains) == identities[1]


def test_a_table_counts_by_its_rows(tmp_path: Path) -> None:
    schema, table = pa.schema([pa.field("key", pa.string())]), tmp_path / "a.parquet"
    write_table(table, [{"key": "x"}], schema, inputs={"manifest": "1"})
    before = identity_of(["cdgmae", str(table)])
    write_table(table, [{"key": "x"}], schema, inputs={"manifest": "2"})
    assert identity_of(["cdgmae", str(table)]) == before
    write_table(table, [{"key": "y"}], schema, inputs={"manifest": "2"})
    assert identity_of(["cdgmae", str(table)]) != before


SCRIPT = "import pathlib, sys; pathlib.Path('results/x').mkdir(parents=True, exist_ok=True); {body}"
MAKE = "pathlib.Path('new').write_text(sys.argv[1]); pathlib.Path('new').replace('results/x/a.txt'); open('made', 'a').write(sys.argv[1])"


def launch(folder: Path, body: str, *arguments: str) -> int:
    line = [str(warm_programs() / "cdgmae"), "cluster", "launch", "none", "--keep", "results/x/a.txt", "--"]
    done = subprocess.run([*line, sys.executable, "-c", SCRIPT.format(body=body), *arguments], cwd=folder, check=False)
    return done.returncode


def test_a_launched_command_is_run_once_and_a_failed_experiment_costs_nothing(tmp_path: Path) -> None:
    result = tmp_path / "results/x/a.txt"
    assert launch(tmp_path, MAKE, "A") == 0
    result.unlink()
    assert launch(tmp_path, MAKE + "; sys.exit(3)", "B") == 3
    result.unlink()
    assert launch(tmp_path, MAKE, "A") == 0
    assert (result.read_text(), (tmp_path / "made").read_text()) == ("A", "AB")
    assert launch(tmp_path, MAKE, "C") == 0
    result.unlink()
    assert launch(tmp_path, MAKE, "A") == 0
    assert (result.read_text(), (tmp_path / "made").read_text()) == ("A", "ABC")
    shutil.rmtree(tmp_path / "work/finished/x")
    assert launch(tmp_path, MAKE, "A") == 0
    assert (tmp_path / "made").read_text() == "ABCA"


def test_a_changed_file_has_other_stats(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    digests = [stats_digest([file])]
    for data in (b"one", b"three"):
        file.write_bytes(data)
        digests.append(stats_digest([file]))
    os.utime(file, (1, 1))
    digests.append(stats_digest([file]))
    for mode in (0o600, 0o444):
        file.chmod(mode)
        digests.append(stats_digest([file]))
    assert len(set(digests)) == 5
    assert digests[3] == digests[5]  # may be read by everyone


def test_a_packed_shard_depends_on_its_manifest_and_its_own_images_alone(tmp_path: Path) -> None:
    for name in "abcd":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    manifest, settings = tmp_path / "packed/manifest.parquet", DatasetSettings(path=str(tmp_path), num_shards=2)
    write_manifest(settings, 0, manifest)
    command = ["cdgmae", "shards", "write", "--settings", settings.canonical_json(), "--manifest", str(manifest)]

    def identities() -> list[str]:
        return [identity_of([*command, "--output", f"packed/{shard}.tar"]) for shard in ("00000", "00001")]

    before = identities()
    table = read_table(manifest, ["source_path", "shard"]).to_pylist()
    os.utime(tmp_path / next(row["source_path"] for row in table if row["shard"] == 1), (1, 1))
    touched = identities()
    assert (touched[0] == before[0], touched[1] == before[1]) == (True, False)
    write_manifest(settings, 1, manifest)
    assert not set(identities()) & {*before, *touched}
