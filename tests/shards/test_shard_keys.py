from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgmae.shards.keys import MAX_KEY_BYTES, distinct_keys, safe_key


@pytest.mark.parametrize(
    ("stem", "key"),
    [
        ("n01440764_10026", "n01440764_10026"),
        ("a b.c/d", "a_b_c_d"),
        ("-rf", "_-rf"),
        ("été", "été"),
        ("e\u0301te\u0301", "été"),  # decomposed, as some file systems store it
        ("photo@2x+", "photo_2x_"),
    ],
)
def test_keys_keep_what_is_safe_and_replace_the_rest(stem: str, key: str) -> None:
    assert safe_key(stem) == key


@given(st.text(min_size=1, max_size=200))
def test_any_stem_becomes_a_key_that_fits_a_tar_header_and_webdataset(stem: str) -> None:
    key = safe_key(stem)
    assert 1 <= len(key.encode()) <= MAX_KEY_BYTES
    assert re.fullmatch(r"[\w-]+", key)
    assert safe_key(key) == key


def test_long_stems_stay_distinct() -> None:
    assert safe_key("x" * 100 + "a") != safe_key("x" * 100 + "b")


def distinct(keys: list[str], classes: list[str | None]) -> list[str]:
    return distinct_keys(pa.array(keys), pa.array(classes, type=pa.string())).to_pylist()


def test_a_shared_stem_gets_its_class_in_front_and_others_stay() -> None:
    assert distinct(["1", "1", "2"], ["cat", "dog", "cat"]) == ["cat-1", "dog-1", "2"]


def test_stems_shared_within_a_class_are_numbered() -> None:
    assert distinct(["1", "1", "1"], ["cat", "cat", "dog"]) == ["cat-1", "cat-1-2", "dog-1"]
    assert distinct(["1", "1"], [None, None]) == ["1", "1-2"]


def test_a_image_that_never_shared_its_key_keeps_it() -> None:
    assert distinct(["1", "1", "cat-1"], ["cat", "dog", "x"]) == ["cat-1-2", "dog-1", "cat-1"]


@given(st.lists(st.tuples(st.sampled_from(["1", "1-2", "a-1", "b", "a-1-2"]), st.sampled_from([None, "a", "b"])), max_size=30))
def test_keys_are_always_distinct(images: list[tuple[str, str | None]]) -> None:
    keys = distinct([key for key, _ in images], [name for _, name in images])
    assert len(set(keys)) == len(images)
