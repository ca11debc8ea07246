"""The base of every settings class: strict, frozen, and with a canonical form that can be hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cdgmae.settings.reading.messages import NAME_PATTERN, describe_problems
from cdgmae.settings.reading.plain_values import check_plain

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A dataset, source, run or encoder name: it becomes a folder name, so letters, digits, _ and - only."""

Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _each_once(values: list[Any]) -> list[Any]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{', '.join(map(str, twice))} stands twice; name each once")
    return values


EachOnce = AfterValidator(_each_once)
"""Of a list: nothing stands twice in it."""

Ratio = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A share of a whole, 0 included and 1 excluded."""


class Settings(BaseModel):
    """Base class of all config sections.

    Unknown keys and wrong types are refused (a YAML ``"5"`` is not the number 5), instances are immutable, and
    `canonical_json` is the form in which a rule hands its section to the command line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=False)

    removed_keys: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions -> what became of them, as the end of a sentence."""

    example: ClassVar[str] = ""
    """What stands in a configuration where something else was written, if that helps."""

    def canonical_json(self, *, include: set[str] | None = None, exclude: set[str] | None = None) -> str:
        """JSON with sorted keys and no spaces, of all fields or some: equal settings give equal text."""
        return json.dumps(self.model_dump(mode="json", include=include, exclude=exclude), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of `canonical_json`; written into every artifact."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]

    @classmethod
    def from_plain(cls, values: Any, context: Any = None) -> Self:
        """Check plain YAML/JSON values, with a context for validators that look at one.

        Validation goes through JSON so that lists are accepted for fixed-length tuples while types stay strict.

        Raises:
            pydantic.ValidationError: on unknown keys, wrong types or values out of range.
            ValueError: if the values are more, or nested deeper, than settings can be, or a key is no text.
        """
        check_plain(values, "settings")
        return cls.model_validate_json(json.dumps(values), context=context)

    @classmethod
    def checked(cls, values: Mapping[str, Any], origin: str) -> Self:
        """As `from_plain`, with one message for people; numbers of NumPy and torch count as Python's.

        Raises:
            ValueError: beginning with `origin`, the option, file or function the values came from, and naming each key, its value and what is
                allowed.
        """
        try:
            return cls.from_plain({key: value.item() if hasattr(value, "item") else value for key, value in values.items()})
        except ValidationError as error:
            raise ValueError(f"{origin}: " + "; ".join(describe_problems(error, cls))) from None
