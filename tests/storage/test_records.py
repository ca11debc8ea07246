"""Records of results: every flipped bit is found, whatever the file; what stands where it should is never called damaged."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.consistency.score_tables import SCORE_SCHEMA
from cdgmae.storage.files.atomic import atomic_folder, write_text
from cdgmae.storage.files.publishing import once_recorded, published
from cdgmae.storage.files.records import find_record, read_record, record_path
from cdgmae.storage.image_shards import index_path
from cdgmae.storage.repair import repair
from cdgmae.storage.tables import write_csv, write_table
from cdgmae.storage.verify import verify_paths
from cdgmae.training.metrics import METRICS_SCHEMA
from tests.generators.conftest import KEYS, write_shard
from tests.shards.drawn_images import image_bytes

FLIPS = 40
KINDS = {
    "shard": "shards/demo/00000.tar", "index": "shards/demo/00000.parquet", "manifest": "shards/demo/manifest.parquet",
    "bad images": "shards/demo/bad_images.csv", "generator": "generators/g/unet/model.safetensors", "generator result": "generators/g/a.json",
    "neighbours": "embeddings/near/index.faiss", "scores": "consistency/s/00000.parquet", "encoder": "pretrain/r/seed0/encoder.safetensors",
    "run": "pretrain/r/seed0/config.json", "metrics": "pretrain/r/seed0/metrics.parquet", "panel": "pretrain/r/seed0/panels/step1.png",
    "clips": "propagation/r/davis.parquet", "strip": "propagation/r/strips/davis/a.jpg", "summary": "propagation/summary.csv",
    "page": "report/index.html", "page data": "report/pages/data.js", "record": "consistency/s/.00000.record.json",
}  # fmt: skip


def tables(*paths: Path, schema: pa.Schema = METRICS_SCHEMA) -> None:
    values = {"key": "k", "source": "s", "encoder": "e", "status": "ok"}
    row = {field.name: values.get(field.name, 3 if pa.types.is_integer(field.type) else 0.25) for field in schema}
    rows = pa.Table.from_pylist([row] * 50, schema=pa.schema([(name, schema.field(name).type) for name in row]))
    for path in paths:
        write_csv(path, rows) if path.suffix == ".csv" else write_table(path, rows, rows.schema)


def files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({"w": np.arange(300, dtype=np.float32)}, root / name)
        else:
            write_text(root / name, json.dumps({"content": name * 20}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every kind that stages leave, published as their commands do."""
    results = tmp_path_factory.mktemp("place") / "results"
    tar, scores = results / "shards/demo/00000.tar", results / "consistency/s/00000.parquet"
    with published(tar, index_path(tar)):
        write_shard(tar, KEYS[:4])
    with published(tar.with_name("manifest.parquet"), tar.with_name("bad_images.csv")):
        tables(tar.with_name("manifest.parquet"), tar.with_name("bad_images.csv"))
    with published(results / "generators/g"), atomic_folder(results / "generators/g") as folder:
        files(folder, "unet/model.safetensors", "a.json")
    with published(results / "embeddings/near/index.faiss"):
        files(results, "embeddings/near/index.faiss")
    with published(scores):
        tables(scores, schema=pa.schema([SCORE_SCHEMA.field(name) for name in ("key", "view_a", "view_b", "gs", "ls", "nps")]))
    run = results / "pretrain/r/seed0"
    run.mkdir(parents=True)  # as Snakemake makes it before the job
    with published(run):
        files(run, "encoder.safetensors", "config.json", "panels/step1.png")
        tables(run / "metrics.parquet")
    with published(results / "propagation/r/davis.parquet", results / "propagation/r/strips/davis"):
        tables(results / "propagation/r/davis.parquet")
        files(results / "propagation/r/strips/davis", "a.jpg", "strips.json")
    with published(results / "propagation/summary.parquet", results / "propagation/summary.csv"):
        tables(results / "propagation/summary.parquet", results / "propagation/summary.csv")
    with published(results / "report"):
        files(results / "report", "index.html", "pages/data.js")
    return results


def bad(paths: Sequence[Path]) -> list[str]:
    return [finding.path for finding in verify_paths(paths) if not finding.ok]


def test_whole_results_are_whole_and_all_recorded(whole: Path) -> None:
    findings = verify_paths([whole])
    assert [finding for finding in findings if not finding.ok or not finding.recorded] == []
    known = {Path(finding.path).relative_to(whole).as_posix() for finding in findings}
    assert known >= set(KINDS.values()) - {KINDS["index"], KINDS["record"]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_found(whole: Path, kind: str) -> None:
    file, draw = whole / KINDS[kind], random.Random(kind)
    content = file.read_bytes()
    missed = []
    try:
        for _ in range(FLIPS):
            place, bit = draw.randrange(len(content)), draw.randrange(8)
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            if not bad([file.parent]):
                missed.append((place, bit))
    finally:
        file.write_bytes(content)
    assert missed == []


def test_linked_folders_are_checked_and_a_link_back_ends(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "consistency", tmp_path / "scratch")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/consistency").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch/back").symlink_to(tmp_path / "results")
    table = tmp_path / "scratch/s/00000.parquet"
    assert bad([tmp_path / "results"]) == []
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    assert bad([tmp_path / "results"]) == [str(tmp_path / "results/consistency/s/00000.parquet")]


def test_files_that_are_gone_from_a_folder_are_missed_whatever_is_left_in_it(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "results")
    report = tmp_path / "results/report"
    (report / "index.html").unlink()
    assert bad([tmp_path / "results"]) == [str(report / "index.html")]
    shutil.rmtree(report / "pages")
    assert bad([tmp_path / "results"]) == [str(report / "index.html"), str(report / "pages/data.js")]


def test_repair_deletes_what_the_workflow_makes_again_and_nothing_else(whole: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(whole, results)
    (results / "report/pages/data.js").unlink()
    (results / "pretrain/r/seed0/config.json").write_text("{}")
    (results / "consistency/s/.00000.record.json").write_text("{")
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("{")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    lines = CliRunner().invoke(app, ["verify", str(results)]).output.splitlines()
    heads = [
        next(place for place, line in enumerate(lines) if line.startswith(words)) for words in ("Delete what", "Write damaged")
    ]
    assert ["rm" in line.split()[0] for line in lines[heads[0] + 1 :]] == [True, True, False, False]
    done = CliRunner().invoke(app, ["verify", "--repair", str(results), str(elsewhere)])
    assert done.exit_code == 1
    gone = before - set(tmp_path.rglob("*"))
    report = {path for path in gone if results / "report" in path.parents}
    assert gone - report == {results / "pretrain/r/seed0/config.json"}
    assert not (results / "report").exists()
    told = done.output.splitlines()
    assert not any("ok" in line.split() for line in told)
    assert [line.split()[0] for line in told[-4:]] == ["deleted", "deleted", "written", "Next,"]
    assert "snakemake --cores all" in told[-1]
    assert repair(verify_paths([results])) == ([], [], {})


def test_a_lost_or_damaged_record_is_written_anew(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, "results")
    records = ["consistency/s/.00000.record.json", "shards/demo/.bad_images.record.json", "pretrain/r/seed0/.record.json"]
    former = {name: Path("results", name).read_text() for name in records}
    kept = Path("work/finished/consistency/s/00000.parquet", "0" * 32, "record.json")
    write_text(kept, json.dumps({"files": {}, "records": {".00000.record.json": former[records[0]]}}))
    Path("results", records[0]).write_text("{")
    told = CliRunner().invoke(app, ["verify", "results"]).output
    assert "Write damaged records anew (--repair does it); no result is deleted" in told
    assert "Delete what is damaged" not in told
    for name in records[1:]:
        Path("results", name).unlink()
    done = CliRunner().invoke(app, ["verify", "--repair", "results"])
    assert done.output.count("written anew") == len(records)
    assert Path("results", records[0]).read_text() == former[records[0]]
    for name in records[1:]:
        assert json.loads(Path("results", name).read_text())["files"] == json.loads(former[name])["files"]
    assert all(finding.ok and finding.recorded for finding in verify_paths([Path("results")]))
    told = CliRunner().invoke(app, ["provenance", "results/pretrain/r/seed0/encoder.safetensors"]).output
    assert "its record was lost and written anew on" in told


def test_what_nothing_can_make_again_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    table = Path("results/consistency/s/00000.parquet")
    with published(table, inputs=[Path("photos")]):
        tables(table)
    table.write_bytes(b"cut")
    Path("photos").rename("elsewhere")
    done = CliRunner().invoke(app, ["verify", "--repair", "results"])
    assert f"{table}: nothing can make it again, since photos is gone" in done.output
    assert "rm -r" not in CliRunner().invoke(app, ["verify", "results"]).output
    assert table.read_bytes() == b"cut"
    Path("elsewhere").rename("photos")
    assert f"deleted {table}" in CliRunner().invoke(app, ["verify", "--repair", "results"]).output


def test_a_failed_attempt_keeps_the_record_of_what_it_did_not_touch(tmp_path: Path) -> None:
    table = tmp_path / "results/propagation/a/davis.parquet"

    def publish(change: bool) -> None:
        with published(table):
            assert not record_path(table).exists()  # a kill now leaves no record of other bytes
            if change:
                tables(table)
            raise RuntimeError

    with published(table):
        tables(table)
    record = read_record(record_path(table))
    with pytest.raises(RuntimeError):
        publish(change=False)
    assert find_record(table) == record
    with pytest.raises(RuntimeError):
        publish(change=True)
    assert find_record(table) is None


def test_a_record_says_where_a_result_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(image_bytes())
    settings = json.dumps({"path": str(tmp_path / "photos"), "num_shards": 1})
    folder = "results/shards/photos"
    listing = ["--output", f"{folder}/manifest.parquet"]
    for command in (["manifest", *listing], ["write", "--manifest", listing[1], "--output", f"{folder}/00000.tar"]):
        done = CliRunner().invoke(app, ["shards", command[0], "--settings", settings, *command[1:]])
        assert done.exit_code == 0, done.output
    record = find_record(Path(folder, "00000.parquet"))
    assert record is not None
    assert record.path == Path(folder, ".00000.record.json")
    assert set(record.files) == {"00000.tar", "00000.parquet"}
    manifest = find_record(Path(folder, "manifest.parquet"))
    assert manifest is not None
    assert record.metadata["inputs"] == {f"{folder}/manifest.parquet": manifest.files["manifest.parquet"].sha256}
    assert record.metadata["command"][:3] == ["cdgmae", "shards", "write"]
    assert {"version", "git", "git_dirty", "libraries", "device", "host", "finished", "settings", "seed"} <= set(record.metadata)
    assert record.metadata["settings"] == manifest.metadata["settings"] != ""
    assert record.metadata["libraries"]["pyarrow"]


def test_finished_work_is_given_up_once_the_result_is_recorded(tmp_path: Path) -> None:
    table, seen = tmp_path / "results/propagation/a/davis.parquet", []

    def give_up() -> None:
        seen.append(find_record(table) is not None)

    def publish(*, fails: bool) -> None:
        with published(table):
            tables(table)
            once_recorded(give_up)
            if fails:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        publish(fails=True)
    assert seen == []
    publish(fails=False)
    assert seen == [True]
    once_recorded(give_up)
    assert seen == [True, True]
