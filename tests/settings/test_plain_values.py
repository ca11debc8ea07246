"""Settings from files and command lines of any origin: bounded before anything walks them, and with a remedy for what YAML reads otherwise."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdgmae.commands.options import parse_settings
from cdgmae.config import ConfigError, check_config, load_config
from cdgmae.generators.imported.original_config import read_original_config
from cdgmae.settings.reading.plain_values import MAX_VALUES, check_plain, read_json, read_yaml
from cdgmae.settings.shards import DatasetSettings

PLAIN = (Path(__file__).parents[2] / "config.yaml").read_text()
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


def bounded_memory(read: Any) -> str:
    """What `read` says, while it takes less than 100 MB."""
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"unfolds to more than|nested too deep|merged by <<|settings have at most"
        ) as refused:
            read()
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert len(str(refused.value)) < 500
    return str(refused.value)


UNFOLDING = {
    "aliases": BOMB,
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}]}}\n" for level in range(1, 40)),
    "deep": "a: " + "[" * 500 + "]" * 500,
    "circle": "a: &a {b: *a}",
    "long": "a: " + "x" * 3_000_000,
}


@pytest.mark.parametrize("text", UNFOLDING.values(), ids=UNFOLDING)
def test_settings_that_unfold_without_end_are_refused_everywhere(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    assert str(path) in bounded_memory(lambda: load_config(path))
    assert str(path) in bounded_memory(lambda: parse_settings(DatasetSettings, [str(path)]))
    assert str(path) in bounded_memory(lambda: read_original_config(path))
    if "[[" not in text and "<<" not in text and len(text) < 1000:  # what Snakemake hands over, already read
        bounded_memory(lambda: check_config(yaml.safe_load(text)))
    bounded_memory(lambda: read_json('{"a": ' * 3000 + "1" + "}" * 3000, "--settings"))


def test_references_that_settings_do_use_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: &base {depth: 2}\none: {<<: *base, width: 3}\ntwo: *base\n")
    assert read_yaml(tmp_path / "a.yaml")["one"] == {"depth": 2, "width": 3}
    check_plain([0] * (MAX_VALUES - 1), "list")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_text_of_windows_shells_is_read_and_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("a: é\n".encode(encoding))
    if encoding == "utf-16-le":  # without a mark nobody can know
        with pytest.raises(ValueError, match=r"is not (text in|valid YAML)"):
            read_yaml(tmp_path / "a.yaml")
    else:
        assert read_yaml(tmp_path / "a.yaml") == {"a": "é"}
    (tmp_path / "a.yaml").write_bytes(b"a: caf\xe9\n")
    with pytest.raises(ValueError, match=r"is not text in utf-8 \(byte 6\); save it as UTF-8"):
        read_yaml(tmp_path / "a.yaml")


READ_OTHERWISE = [
    (
        "base_learning_rate: 0.016",
        "base_learning_rate: 1e-3",
        r"base_learning_rate = '1e-3'.*YAML reads 1e-3 as text: write 1\.0e-3",
    ),
    ("base_learning_rate: 0.016", "base_learning_rate: 5E4", r"write 5\.0e\+4"),
    (
        "dataset: demo",
        "dataset: no",
        r"dataset = False.*YAML reads no, yes, on and off as false and true: put the word in quotes",
    ),
    ("dataset: demo", "dataset: 2017", r"dataset = 2017.*YAML reads it as a number: put it in quotes, '2017'"),
    ("  datasets:\n    demo:", "  datasets:\n    no:", r"key False is no text: YAML reads no, .* put it in quotes"),
    ("  datasets:\n    demo:", "  datasets:\n    2017:", r"key 2017 is no text"),
]


@pytest.mark.parametrize(("before", "after", "message"), READ_OTHERWISE, ids=[row[1] for row in READ_OTHERWISE])
def test_what_yaml_reads_otherwise_comes_with_what_to_write(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in PLAIN
    path = tmp_path / "my.yaml"
    path.write_text(PLAIN.replace(before, after))
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_the_remedy_for_numbers_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(PLAIN.replace("base_learning_rate: 0.016", "base_learning_rate: 1.0e-3"))
    assert {run.base_learning_rate for run in load_config(path).pretrain.runs.values()} == {1e-3}
