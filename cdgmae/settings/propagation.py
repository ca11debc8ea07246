"""Section `propagation`: frozen encoders on evaluation sets, training-free (paper, Table 7)."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from cdgmae.propagation.benchmarks.benchmark_kinds import BENCHMARKS, EvaluationSet
from cdgmae.settings.base import Name, Settings
from cdgmae.settings.encoder import EncoderSettings


def with_kinds(section: Any) -> Any:
    """The section with the `kind` of every set that is named after a kind; an empty set (null) is left out, so that an overlay can drop it."""
    datasets = section.get("datasets") if isinstance(section, dict) else None
    if not isinstance(datasets, dict):
        return section
    named = {
        name: {"kind": name, **protocol} if isinstance(protocol, dict) and name in BENCHMARKS else protocol
        for name, protocol in datasets.items()
        if protocol is not None
    }
    return {**section, "datasets": named}


def _any_kind(schema: dict[str, Any]) -> None:
    """In the JSON schema, which cannot see names, a set without `kind` may be of any."""
    (kinds,) = schema["patternProperties"].values()
    kinds["anyOf"] = kinds.pop("oneOf")
    kinds.pop("discriminator")


class PropagationSettings(Settings):
    """Section `propagation`."""

    datasets: dict[Name, EvaluationSet] = Field(
        default={},
        description="Evaluation sets by name and their protocols, whose defaults are the paper's. `kind` may be left out where the name is "
        "a kind.",
        json_schema_extra=_any_kind,
    )
    encoders: dict[Name, EncoderSettings] = Field(default={}, description="Encoders to judge, by name.")

    @model_validator(mode="after")
    def _names_fit_kinds(self) -> Self:
        problems = [
            f"datasets.{name}.kind = {evaluation_set.kind!r}, but {name!r} is the name of another kind, under which the paper's "
            "numbers stand; give the set another name"
            for name, evaluation_set in self.datasets.items()
            if name in BENCHMARKS and evaluation_set.kind != name
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self
