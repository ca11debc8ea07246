"""Plain values (YAML, JSON) from files that may come from elsewhere: bounded in size and depth before anything walks them."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml

MAX_VALUES = 100_000
"""Most values that settings may unfold to; a file of 460 bytes can refer to itself into billions."""

MAX_DEPTH = 50
MAX_TEXT = 2_000_000
"""Most characters of YAML, of which a few hundred thousand are read per second."""

YAML_HINTS = {
    "a tab character": "; lines are indented with blanks, never with tabs",
    "cannot start any token": "; lines are indented with blanks, never with tabs, and a text that begins with @, ` or % stands in quotes",
    "could not find expected ':'": "; every key is followed by a colon and a blank: KEY: VALUE",
    "mapping values are not allowed": "; every key is followed by a colon and a blank (KEY: VALUE), keys of one level begin in one column, and "
    "a text with a colon and a blank in it stands in quotes",
}
"""Words of the parser -> what is usually meant by them."""

ENCODINGS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
"""Marks at the start of a file -> its encoding; Windows' shells write UTF-16."""


class NotPlain(ValueError):
    """Keys that stand twice or are no text, and values that no setting takes.

    Attributes:
        problems: One sentence each.
        values: What can be checked further: the last value of each key, and texts in place of what is none.
    """

    def __init__(self, origin: str, problems: Iterable[str], values: Any) -> None:
        self.problems, self.values = list(problems), _as_texts(values)
        super().__init__(f"{origin}: {'; '.join(self.problems)}")


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, in which mappings merged by `<<` cannot double without end, and no key stands twice in one."""

    merged = 0

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._seen: set[int] = set()
        self.twice: list[str] = []

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Write merged mappings out."""
        if id(node) not in self._seen:
            self._seen.add(id(node))
            self._check_keys(node)
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values, merged by <<")

    def _check_keys(self, node: yaml.MappingNode) -> None:
        places: dict[str, yaml.ScalarNode] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (first := places.setdefault(key.value, key)) is not key:
                lines = " and ".join(str(mark.line + 1) for mark in (first.start_mark, key.start_mark) if mark)
                self.twice.append(f"key {key.value!r} stands twice in one mapping, in lines {lines}; keep one of them")


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file, checked by `check_plain`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no YAML, or unfolds to more than settings can be.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in {encoding} (byte {error.start}); save it as UTF-8") from None
    return read_yaml_text(text, str(path))


def read_yaml_text(text: str, origin: str) -> Any:
    """The plain values of YAML text, checked by `check_plain`.

    Raises:
        ValueError: if it is no YAML, or unfolds to more than settings can be.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"{origin} has {len(text):,} characters; settings have at most {MAX_TEXT:,}")
    loader: Any = None
    try:
        loader = _PlainLoader(text)
        values = loader.get_single_data()
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:  # the latter of `!!bool x` and the like
        said = _words(error)
        hint = next((hint for words, hint in YAML_HINTS.items() if words in said), "")
        raise ValueError(f"{origin} is not valid YAML: {said}{hint}") from None
    except RecursionError:
        raise ValueError(f"{origin} is nested too deep; settings have at most {MAX_DEPTH} levels") from None
    check_plain(values, origin, loader.twice)
    return values


def _words(error: Exception) -> str:
    """What a parser says, with lines and columns, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error)
    said = ((error.context, error.context_mark), (error.problem, error.problem_mark))
    return ": ".join(
        f"{text}{f' in line {mark.line + 1}, column {mark.column + 1}' if mark else ''}" for text, mark in said if text
    )


def read_json(text: str, origin: str) -> Any:
    """The plain values of JSON text, checked by `check_plain`.

    Raises:
        ValueError: if it is no JSON, or nested deeper than settings can be.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{origin} is not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{origin} is nested too deep; settings have at most {MAX_DEPTH} levels") from None
    check_plain(values, origin)
    return values


def check_plain(values: Any, origin: str, known: Iterable[str] = ()) -> None:
    """Refuse values that unfold to more than settings can be, and keys that are no text.

    Args:
        values: The values.
        origin: The file or option that they are from.
        known: Problems of them that are known.

    Raises:
        ValueError: naming `origin` and what is wrong; a `NotPlain` if the values can be checked further all the same.
    """
    problems = dict.fromkeys(known)
    if _unfolded(values, origin, {}, 0, problems) > MAX_VALUES:
        raise ValueError(
            f"{origin} unfolds to more than {MAX_VALUES:,} values through its references (& and *); settings never do"
        )
    if problems:
        raise NotPlain(origin, problems, values)


def _as_texts(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_texts(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_as_texts(inside) for inside in value]
    return str(value).encode(errors="replace").decode() if isinstance(value, (str, date, bytes, set)) else value


def _unfolded(value: Any, origin: str, sizes: dict[int, int], depth: int, problems: dict[str, None]) -> int:
    """Number of values behind `value` with every reference written out; each is walked once, and what is no setting is noted."""
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        problems[f"{value!r} holds halves of characters, which are no text"] = None
    if isinstance(value, (date, bytes, set)):
        problems[f"{value!r} is a {type(value).__name__}, which no setting takes; put it in quotes if it is a text"] = None
    if not isinstance(value, (Mapping, list, tuple)):
        return 1
    if depth > MAX_DEPTH:
        raise ValueError(f"{origin} is nested too deep or refers to itself; settings have at most {MAX_DEPTH} levels")
    if id(value) not in sizes:
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    problems[f"key {key!r} is no text: YAML reads no, yes, on, off and numbers so; put it in quotes"] = None
        items = value.values() if isinstance(value, Mapping) else value
        sizes[id(value)] = 1 + sum(_unfolded(item, origin, sizes, depth + 1, problems) for item in items)
    return sizes[id(value)]
