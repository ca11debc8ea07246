"""Source kind folder: files of another tool, matched by name, copied byte for byte; what does not fit is listed."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from typer.testing import CliRunner

from cdgmae.cli import app
from cdgmae.names import IMAGE_EXTENSIONS
from cdgmae.settings.runtime import RuntimeSettings
from cdgmae.storage.bags import Bags
from cdgmae.storage.image_shards import BAD, ImageRow, ImageShard
from cdgmae.storage.media.images import decode_rgb
from cdgmae.views.gathering.folder_files import key_of, natural_order
from cdgmae.views.sources.folder import FolderViews
from cdgmae.views.sources.view_source import ViewJob
from tests.generators.conftest import KEYS, write_shard

ROOT = Path(__file__).parents[2]


def draw(path: Path, seed: int, size: tuple[int, int] = (20, 12), **options: object) -> Path:
    """An image file of noise in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def make(root: Path, shard: Path, output: Path, **keys: object) -> dict:
    values = {"root": str(root), **keys}
    job = ViewJob(
        seed=0, shard=shard, all_shards=sorted(shard.parent.glob("*.tar")), output=output, work=output.parent / "work", inputs={},
        runtime=RuntimeSettings(threads=2),
    )  # fmt: skip
    return FolderViews.from_plain(values).make(job)


def bags_of(shards: list[Path], views: list[Path]) -> dict[str, list[bytes]]:
    """Bytes of every bag's views, the real image left out, as training reads them."""
    store = Bags(shards, views).usable()
    bags = [store.bag(position) for position in range(len(store))]
    return {bag.key: [store.read(row) for row in bag.rows[1:]] for bag in bags}


def left(output: Path) -> dict[str, str]:
    target = output.with_suffix(".not_taken.csv")
    return {row["file"]: row["reason"] for row in csv.DictReader(target.open())} if target.exists() else {}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_shard(tmp_path / "real" / "00000.tar", KEYS, bad=["gnu"])


def test_bags_hold_the_files_bytes_in_the_order_of_their_numbers_and_names(shard: Path, tmp_path: Path) -> None:
    root = tmp_path / "edited"
    numbered = [draw(root / "deep" / f"ant.{number}.png", number) for number in (1, 2, 10)]
    named = [draw(root / "bee" / name, 20 + place) for place, name in enumerate(("v2.jpg", "v10.webp", "w1.png"))]
    mixed = [draw(root / "cat" / "other.jpg", 30), draw(root / "cat.1.jpg", 31)]
    members = [draw(tmp_path / "made" / f"dog.{number}.png", 40 + number) for number in (1, 2)]
    with tarfile.open(root / "views.tar", "w") as tar:
        for path in members:
            tar.add(path, path.name)
        tar.add(numbered[0], "eel/x.png")
    result = make(root, shard, tmp_path / "views" / "00000.tar")
    expected = {"ant": numbered, "bee": named, "cat": mixed[::-1], "dog": members, "eel": [numbered[0]], "fox": []}
    bags = bags_of([shard], [tmp_path / "views" / "00000.tar"])
    assert bags == {key: [path.read_bytes() for path in paths] for key, paths in expected.items()}
    for key, paths in expected.items():
        for data, path in zip(bags[key], paths, strict=True):
            assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(Image.open(path).convert("RGB")))
    assert {name: result[name] for name in ("images", "views", "bad", "without_views", "not_taken")} == {
        "images": 6, "views": 11, "bad": 0, "without_views": 1, "not_taken": 0,
    }  # fmt: skip
    rows = {(row.key, row.view_index): row for row in ImageShard(tmp_path / "views" / "00000.tar").rows()}
    assert (rows["ant", 10].source_path, rows["ant", 10].class_name) == ("deep/ant.10.png", "animal")
    assert rows["dog", 2].source_path == "views.tar!dog.2.png"
    assert (rows["fox", 1].status, rows["fox", 1].reason) == (BAD, "no file of this key in the folder")


def test_what_is_not_taken_is_counted_and_listed_once(tmp_path: Path) -> None:
    shards = [write_shard(tmp_path / "real" / f"0000{n}.tar", KEYS[n::2]) for n in (0, 1)]
    root = tmp_path / "edited"
    for number, name in enumerate(
        ["ant.0.png", "ant.1.png", "a/ant.1.png", "ant.2.png", "ant.3.png", "cow.1.png", "bee.png", "bee/1.png"]
    ):
        draw(root / name, number)
    (root / "readme.txt").write_text("about")
    outputs = [tmp_path / "views" / shard.name for shard in shards]
    result = [make(root, shard, output, num_views=2) for shard, output in zip(shards, outputs, strict=True)]
    named = r"(named {key}.{view_index}.EXT or {key}/NAME.EXT)"
    assert left(outputs[0]) == {
        "ant.0.png": "view_index 0 is the real image",
        "a/ant.1.png": "ant.1.png is this view already",
        "ant.3.png": "beyond num_views = 2",
        "cow.1.png": f"no image of the data set has such a key {named}",
        "bee.png": f"no image of the data set has such a key {named}",
        "readme.txt": f"not one of {', '.join(sorted(IMAGE_EXTENSIONS))}",
    }
    assert left(outputs[1]) == {}
    assert [fact["not_taken"] for fact in result] == [6, 0]
    assert {key: len(views) for key, views in bags_of(shards, outputs).items() if views} == {"ant": 2, "bee": 1}
    (root / "readme.txt").unlink()
    for name in ("ant.0.png", "a/ant.1.png", "ant.3.png", "cow.1.png", "bee.png"):
        (root / name).unlink()
    assert make(root, shards[0], outputs[0], num_views=2)["not_taken"] == 0
    assert not outputs[0].with_suffix(".not_taken.csv").exists()


def test_unreadable_files_are_rows_with_reasons_up_to_the_limit(shard: Path, tmp_path: Path) -> None:
    root = tmp_path / "edited"
    whole = draw(root / "ant.1.jpg", 1, (64, 64))
    (root / "ant.2.jpg").write_bytes(whole.read_bytes()[:300])
    (root / "bee.1.png").write_bytes(b"")
    (root / "cat.1.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(root / "dog.1.png")
    draw(root / "eel.1.png", 5, (80, 80))
    with pytest.raises(ValueError, match=r"5 of 6 views are bad.*views\.sources\.NAME\.max_bad_fraction"):
        make(root, shard, tmp_path / "strict.tar", max_pixels=4096)
    assert not (tmp_path / "strict.tar").exists()
    result = make(root, shard, tmp_path / "views.tar", max_pixels=4096, max_bad_fraction=0.9)
    rows = {(row.key, row.view_index): row.reason for row in ImageShard(tmp_path / "views.tar").rows(BAD)}
    assert rows["ant", 2].startswith("corrupt or truncated image")
    assert (rows["bee", 1], rows["dog", 1]) == ("empty file", "not a regular file")
    assert rows["cat", 1] == "unreadable file (No such file or directory)"
    assert rows["eel", 1] == "too many pixels (80x80, the limit is 4096)"
    assert (result["views"], result["bad"]) == (1, 5)


def test_loops_end_and_names_lead_nowhere_outside(shard: Path, tmp_path: Path) -> None:
    root = tmp_path / "edited"
    inside = draw(root / "ant.1.png", 1)
    (root / "loop").symlink_to(root)
    with tarfile.open(root / "views.tar", "w") as tar:
        tar.add(inside, "../../bee.1.png")
        link = tarfile.TarInfo("cat.1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    before = {path for path in tmp_path.rglob("*") if not path.is_symlink()}
    make(root, shard, tmp_path / "out" / "00000.tar")
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if not path.is_symlink()} - {
        path.relative_to(tmp_path) for path in before
    }
    assert made == {Path("out"), Path("out/00000.tar"), Path("out/00000.parquet")}
    bags = bags_of([shard], [tmp_path / "out" / "00000.tar"])
    assert {key for key, views in bags.items() if views} == {"ant", "bee"}


def test_a_rotated_photograph_is_stored_as_it_is_and_read_upright(shard: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = draw(tmp_path / "edited" / "ant.1.jpg", 1, (24, 16), exif=exif)
    make(tmp_path / "edited", shard, tmp_path / "views.tar")
    view: ImageRow = next(row for row in ImageShard(tmp_path / "views.tar").rows() if row.key == "ant")
    assert (view.width, view.height) == (16, 24)
    data = bags_of([shard], [tmp_path / "views.tar"])["ant"][0]
    assert data == path.read_bytes()
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


def test_a_folder_that_fits_nothing_says_what_names_it_wants(shard: Path, tmp_path: Path) -> None:
    draw(tmp_path / "edited" / "horse.1.png", 1)
    with pytest.raises(ValueError, match=r"keys look like ant, bee, cat, files like horse\.1\.png\. Name the files \{key\}"):
        make(tmp_path / "edited", shard, tmp_path / "views.tar")
    with pytest.raises(ValueError, match=r"nothing does not exist.*views\.sources\.NAME\.root"):
        make(tmp_path / "nothing", shard, tmp_path / "views.tar")


def test_a_name_is_a_number_of_its_key_before_it_is_in_a_keys_folder() -> None:
    keys = {"img", "folder", "é"}
    assert key_of("folder/img.3.png", keys) == ("img", 3)
    assert key_of("folder/other.3.png", keys) == ("folder", None)
    assert key_of("a/b/folder/x.JPEG", keys) == ("folder", None)
    assert key_of("e\u0301.2.webp", keys) == ("é", 2)
    for name in ("img.png", "img.1.txt", "img.x.png", "folder.1", "x/folder.png"):
        assert key_of(name, keys) == (None, None)


@given(st.lists(st.integers(0, 10**6), unique=True), st.text("ab-", max_size=3))
def test_numbers_in_names_count_as_numbers(numbers: list[int], word: str) -> None:
    names = [f"{word}{number}.png" for number in numbers]
    assert sorted(names, key=natural_order) == [f"{word}{number}.png" for number in sorted(numbers)]


def test_the_commands_of_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, key in enumerate(("ant", "cat")):
        draw(Path("photos") / f"{key}.jpg", number, (32, 32))
        draw(Path("edited") / f"{key}.1.jpg", 10 + number, (32, 32))
    block = re.search(r"```sh\n(.*?)```", (ROOT / "docs" / "your_views.md").read_text(), re.DOTALL)
    assert block is not None
    results = []
    for line in block.group(1).splitlines():
        words = shlex.split(line)
        assert words[0] == "cdgmae"
        result = CliRunner().invoke(app, [*words[1:], "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        results.append(json.loads(result.output.strip().splitlines()[-1]))
    assert (results[1]["views"], results[3]["pairs"]) == (2, 2)
    assert Image.open("bag.png").width > 64
