"""What is wrong with settings, in words: the key, its value, what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""Of names, which become names of folders."""

LISTED = "\n  - "
"""Before each item of a list in a message."""

SHOWN_CHARACTERS = 200
"""Longest value that a message repeats."""


def describe_problems(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line per problem: the key, its value, what is allowed.

    Args:
        error: What pydantic found.
        root: The settings class that was checked.
    """
    return sorted({line for item in error.errors() for line in _describe(dict(item), root)})


def _describe(item: dict[str, Any], root: type[BaseModel]) -> list[str]:
    kind, message, given = item["type"], str(item["msg"]).removeprefix("Value error, "), item.get("input")
    place = place_of(item["loc"][:-1] if kind == "extra_forbidden" else item["loc"], root)
    key, word = ".".join(place.parts), str((item["loc"] or [""])[-1])
    if kind == "default_factory_not_called":  # of a default that waits for a value which is refused itself
        return []
    if kind == "extra_forbidden":
        return [f"{'.'.join([*place.parts, word])}{_unknown_key(word, _model_in(place.annotation))}"]
    if kind == "missing" and not word.isdecimal():
        return [f"{key}: required and not given"]
    if kind.startswith("union_tag"):
        return _describe_tag(key, item, place.annotation)
    if kind == "value_error":
        return [f"{key}: {line}" if key else line for line in message.splitlines()]
    shown = repr(given) if len(repr(given)) <= SHOWN_CHARACTERS else f"{repr(given)[:SHOWN_CHARACTERS]}..."
    if kind == "string_pattern_mismatch" and item["ctx"]["pattern"] == NAME_PATTERN:
        message = "Names hold letters, digits, _ and - alone, and begin with a letter or digit"
    elif kind in ("string_pattern_mismatch", "missing") or place.is_choice:
        message = f"Allowed: {place.description}"
    elif kind in ("list_type", "tuple_type"):
        message = f"A list is needed, in brackets{'' if isinstance(given, dict | None) else f': [{given}]'}"
    elif kind in ("model_type", "dict_type"):
        example = getattr(_model_in(place.annotation), "example", "")
        message = "Keys with values are needed below it" + (f", e.g. {example}" if example else "")
    return [f"{key} = {shown}: {message[:1].lower()}{message[1:]}{_yaml_hint(given, kind)}"]


def _unknown_key(word: str, model: type[BaseModel] | None) -> str:
    removed: Mapping[str, str] = getattr(model, "removed_keys", {})
    if word in removed:
        return f" {removed[word]}"
    allowed = list(model.model_fields) if model is not None else []
    return f": unknown key; allowed: {', '.join(allowed)}{did_you_mean(word, allowed)}"


def _yaml_hint(given: Any, kind: str) -> str:
    """What to write where YAML 1.1 reads a number as text or a name as something else."""
    if kind == "string_type" and isinstance(given, bool):
        return "; YAML reads no, yes, on and off as false and true: put the word in quotes"
    if kind == "string_type" and isinstance(given, int | float):
        return f"; YAML reads it as a number: put it in quotes, '{given}'"
    number = re.fullmatch(r"([+-]?)(\d+)(\.\d*)?[eE]([+-]?)(\d+)", given) if isinstance(given, str) else None
    if kind in ("float_type", "int_type") and isinstance(given, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?", given):
        return f"; in quotes it is a text: write {given}"
    if kind in ("float_type", "int_type") and number:
        sign, whole, rest, exponent_sign, exponent = number.groups()
        return f"; YAML reads {given} as text: write {sign}{whole}{rest or '.0'}e{exponent_sign or '+'}{exponent}"
    return ""


def _describe_tag(key: str, item: dict[str, Any], annotation: Any) -> list[str]:
    """A missing or unknown `kind` of a union of settings classes, with what is wrong with the other keys if it is the kind that is most like it."""
    members = _members(annotation)
    allowed = ", ".join(members)
    if item["type"] == "union_tag_not_found":
        return [f"{key}.kind: required and not given; one of {allowed}"]
    tag = str(item["ctx"]["tag"])
    lines = [f"{key}.kind = {tag!r}: no such kind; allowed: {allowed}{did_you_mean(tag, members)}"]
    for close in difflib.get_close_matches(tag, list(members), n=1):
        try:
            members[close].model_validate_json(json.dumps({**item["input"], "kind": close}))
        except ValidationError as error:
            lines += [f"{key}.{line}" for line in describe_problems(error, members[close])]
    return lines


def folded(message: str) -> str:
    """A message in one line, whatever breaks other libraries put into their part of it; items of a list keep their lines."""
    return re.sub(rf"\s*\n(?!{LISTED[1:]})\s*", " ", message)


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """The allowed word that `word` resembles, as a question in brackets, or nothing."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def meant_key(word: str, annotation: Any) -> str | None:
    """The key of a settings class that an unknown one surely means."""
    model = _model_in(annotation)
    if model is None or word in getattr(model, "removed_keys", {}):
        return None
    return next(iter(difflib.get_close_matches(word, list(model.model_fields), n=1, cutoff=0.8)), None)


class Place(NamedTuple):
    """Where a problem is: the key's parts, its annotation and description, and whether it may be of one of several plain types."""

    parts: list[str]
    annotation: Any
    description: str
    is_choice: bool


def place_of(location: tuple[Any, ...], root: Any) -> Place:
    """The key at `location`; what the checker puts between keys (kinds and types of a union, the place in a pair) is left out."""
    parts: list[str] = []
    annotation, description, is_choice = root, "", False
    for part in location:
        members, model = _members(annotation), _model_in(annotation)
        if members:
            annotation = members.get(str(part))
        elif model is not None and part in model.model_fields:
            field = model.model_fields[part]
            parts.append(part)
            description, is_choice = field.description or "", False
            annotation = Annotated[field.annotation, field] if field.discriminator else field.annotation
        elif model is not None:
            annotation = model if part == model.__name__ else None
        elif isinstance(annotation, UnionType) and str(part) in map(_type_name, get_args(annotation)):
            is_choice = True
        elif part != "[key]" and not is_choice and not (isinstance(part, int) and get_origin(annotation) is tuple):
            parts.append(str(part))
            annotation = next((arg for arg in get_args(annotation) if _members(arg) or _model_in(arg)), None)
    return Place(parts, annotation, description, is_choice)


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _members(annotation: Any) -> dict[str, type[BaseModel]]:
    """Kind -> class of a union of settings classes that are told apart by `kind`; empty for anything else."""
    union, *extras = get_args(annotation) or (None,)
    if not any(getattr(extra, "discriminator", None) for extra in extras):
        return {}
    return {kind: model for model in get_args(union) for kind in get_args(model.model_fields["kind"].annotation)}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if getattr(annotation, "__origin__", None) is dict:
        return None
    return next((arg for arg in get_args(annotation) if isinstance(arg, type) and issubclass(arg, BaseModel)), None)
