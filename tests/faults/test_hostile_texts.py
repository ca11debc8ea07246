"""Texts that people type or get from elsewhere: expressions, settings, names; every one is understood or refused in words, none is executed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cdgmae.commands.options import parse_settings
from cdgmae.config import load_config
from cdgmae.consistency.query import QUERY_COLUMNS, Query
from cdgmae.consistency.score_tables import SCORE_SCHEMA
from cdgmae.settings.encoder import parse_encoder
from cdgmae.settings.pretrain import PretrainRunSettings
from cdgmae.settings.reading.plain_values import read_yaml_text
from cdgmae.settings.shards import DatasetSettings
from cdgmae.storage.image_shards import OK, ImageShard
from cdgmae.storage.tables import write_table
from cdgmae.storage.verify import verify_paths
from tests.faults.bounded import feed
from tests.faults.forked import ForkedCommand
from tests.faults.ledger import Count, recorded, sample
from tests.faults.mutations import rewritten
from tests.shards.drawn_images import image_bytes, write_tar

EXECUTED = "executed-by-a-text"
CODE = f"__import__('pathlib').Path('{EXECUTED}').touch()"
EXPRESSIONS = (
    "nps >= 0.6 and gs >= 0.9", "not (key == 'k1') or view_b != 2", "-nps * 2 + 1 / gs < ls - 0.5", "source == 's' and gs > ls > nps",
)  # fmt: skip
EXPRESSION_PIECES = (
    *QUERY_COLUMNS, *"()[]{}'\"\\,.:;@#%&|^~<>=!+-*/ \n\t\0", "and", "or", "not ", "not " * 300, "(" * 200, "-" * 300, "1e999",
    "0x" + "f" * 400, "9" * 5000, "nan", "inf", "None", "True", "1j", "b'x'", "f'{gs}'", "''", "lambda: 0", "gs := 1", "gs if ls else nps",
    "[gs for gs in ls]", CODE, "gs.__class__", "()()", "\ud800", "\u202e", "ñ", "in", "is", "**", "//", "<<", "gs < " * 400 + "1", "yield",
    "await x", "...", "*gs", "1_0", "'a' * 10**9", "'\\ud800'",
)  # fmt: skip
YAML_PIECES = (
    *"[]{}:,-?&*!|>'\"%@`#\n \t\0", "&a [*a]", "*a", "- &a [1]\n- [*a, *a]\n", f"!!python/object/apply:os.system ['touch {EXECUTED}']",
    "!!timestamp x", "!!int x", "!!int ''", "!!float x", "!!bool x", "!!binary x", "!!set [1]", "!!omap [1]", "!!pairs 1", "2001-99-99",
    "<<: 1", "<<: [1]", "? [1]\n: 2\n", "? {a: 1}\n: 2\n", "1:99:99", "0x", "0b2", "1e999", ".nan", ".inf", "-.inf", "9" * 5000, "null", "~",
    "yes", "\\ud800", '"\\ud800"', "\x85", "\ufeff", "\u2028", "[" * 400, "{a: " * 300, "---\n", "...\n", "a: 1\na: 2\n", "=", "!<x> 1", "!x 1",
)  # fmt: skip
JSON_PIECES = (
    *"[]{}:,-'\"\n\\ \0", "NaN", "Infinity", "-1", "1e999", "9" * 5000, '"\\ud800"', "null", "true", "[" * 2000, '{"a":' * 2000,
    '{"a": 1, "a": 2}',
)  # fmt: skip
NAMES = (
    "plain", "with space", "-rf", "--output", "$(touch X)", "`touch X`", ";touch X;", "a'b", 'a"b', "a\\b", "a\nb", "a\tb", "*", "?",
    "[red]x[/red]", "[/b]", "{shard}", "{0}", "%s", "<script>alert(1)</script>", "&amp;", "ünï", "e\u0301", "\u202egpj", "\u200b", "😀",
    "CON", "a" * 240, "...", "~", "a.b.c", "a.1", "a.1.jpg", "00000", "manifest", "=1+1", "@SUM(1)", "null", "nan", "__proto__",
    "constructor", "\x7f", "\x1b[31m", "é" * 100, "A", "ａ", "№", "%2e%2e",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def as_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda content: read(content.decode("utf-8", "surrogatepass"))


def fed(read: Callable[[str], object], texts: list[str], folder: Path) -> tuple[Count, list[str]]:
    """What a reader made of texts: the counts, and every problem with its text."""
    count, problems = feed(as_text(read), [text.encode("utf-8", "surrogatepass") for text in texts], folder / "log")
    if list(folder.rglob(EXECUTED)):
        count.silent += 1
        problems.append("a text was executed")
    numbers = [re.match(r"input (\d+)", problem) for problem in problems]
    return count, [
        f"{problem} in {texts[int(number[1])][:300]!r}" if number else problem
        for problem, number in zip(problems, numbers, strict=True)
    ]


def test_expressions(tmp_path: Path) -> None:
    draw = random.Random(0)
    row = {"key": "k", "source": "s", "encoder": "e", "status": "ok", "class_name": "c", "reason": None}
    numbers = {"view_a": 0, "view_b": 1, "gs": 0.9, "ls": 0.5, "nps": 0.7}
    rows = [{name: {**row, **numbers}.get(name) for name in SCORE_SCHEMA.names} for _ in range(5)]
    (tmp_path / "s").mkdir()
    write_table(tmp_path / "s/00000.parquet", rows, SCORE_SCHEMA)
    texts = [rewritten(EXPRESSIONS, EXPRESSION_PIECES, draw) for _ in range(sample(100, 800))]
    count, problems = fed(lambda text: Query(tmp_path, text).first(3), [*EXPRESSIONS, *texts], tmp_path)
    assert recorded("consistency query", "hostile expression", count).all_survived, problems


def test_yaml(tmp_path: Path) -> None:
    draw = random.Random(1)
    seeds = [
        "shards:\n  datasets:\n    demo: {path: photos, num_shards: 2}\nseed: 1\n",
        "a: &x [1, 2]\nb: *x\nc: {d: 2001-01-01, e: 0x1f}\n",
    ]
    texts = [rewritten(seeds, YAML_PIECES, draw) for _ in range(sample(150, 800))]

    def read(text: str) -> object:
        path = tmp_path / "config.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return load_config(path) if len(text) % 2 else read_yaml_text(text, "--settings")

    count, problems = fed(read, [*seeds, *texts], tmp_path)
    assert recorded("config check", "hostile YAML", count).all_survived, problems


def test_settings(tmp_path: Path) -> None:
    draw = random.Random(2)
    seeds = [
        PretrainRunSettings().canonical_json(),
        '{"path": "photos", "num_shards": 3, "max_bad_fraction": 0.1}',
        "num_shards=4",
        "image_size=1x2",
    ]
    texts = [rewritten(seeds, (*JSON_PIECES, *YAML_PIECES), draw) for _ in range(sample(150, 600))]

    def read(text: str) -> object:
        kind = PretrainRunSettings if "epochs" in text else DatasetSettings
        return parse_settings(kind, [text])

    count, problems = fed(read, [*seeds, *texts], tmp_path)
    assert recorded("all commands", "hostile --settings", count).all_survived, problems


def test_encoders(tmp_path: Path) -> None:
    draw = random.Random(3)
    seeds = [
        "pixels:8",
        "random:vit_small_patch16_224",
        "vit_small_patch16_224@weights.pth",
        "weights.pth?key=model&num_heads=6",
        '{"timm": "x"}',
    ]
    texts = [rewritten(seeds, JSON_PIECES, draw) for _ in range(sample(100, 300))]
    count, problems = fed(parse_encoder, [*seeds, *texts], tmp_path)
    assert recorded("all commands", "hostile --encoder", count).all_survived, problems


@pytest.mark.parametrize("layout", ["images", "webdataset"])
def test_names(layout: str, tmp_path: Path) -> None:
    """Every image arrives under a key of its own, and nothing appears outside of the output."""
    names = [name for name in NAMES if len(name.encode()) < 246]
    root = tmp_path / "root"
    root.mkdir()
    if layout == "images":
        for number, name in enumerate(names):
            (root / f"{name}.jpg").parent.mkdir(exist_ok=True)
            (root / f"{name}.jpg").write_bytes(image_bytes(number))
    else:
        names = [*names, "../../up", "/absolute", "a/../../b", "a//b", "./c"]
        write_tar(root / "00000.tar", {f"{name}.jpg": image_bytes(number) for number, name in enumerate(names)})
    before = set(tmp_path.rglob("*"))
    words = ["shards", "write", "--root", root, "--output", tmp_path / "packed", "--settings", f"layout={layout}"]
    command = ForkedCommand(words, tmp_path / "log")
    code, log = command.end_with(), (tmp_path / "log").read_text()
    count = Count(injected=len(names), traceback=int(code != 0 or "Traceback" in log))
    rows = list(ImageShard(tmp_path / "packed/00000.tar").rows(OK)) if code == 0 else []
    left_out = pq.read_table(tmp_path / "packed/manifest.parquet").num_rows - len(rows) if code == 0 else 0
    listed = (
        len((tmp_path / "packed/left_out.csv").read_text().splitlines()) - 1 if (tmp_path / "packed/left_out.csv").exists() else 0
    )
    count.survived = len({row.key for row in rows}) + left_out + listed
    strangers = [
        path
        for path in set(tmp_path.rglob("*")) - before
        if tmp_path / "packed" not in (path, *path.parents) and path.name != "log"
    ]
    count.silent += len(strangers) + sum(not finding.ok for finding in verify_paths([tmp_path / "packed"]))
    assert recorded("shards write", f"hostile names ({layout})", count).all_survived, (
        log,
        strangers,
        sorted(set(names) - {row.key for row in rows}),
    )
