"""Templates of the report: where they lie and how numbers are written in them."""

from __future__ import annotations

import json

from jinja2 import Environment, PackageLoader, StrictUndefined


def template_environment() -> Environment:
    """Templates of `cdgmae.report`: everything is escaped, an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("cdgmae.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["whole"] = lambda value: f"{value:,}"
    environment.filters["similarity"] = lambda value: "none" if value is None else f"{value:.3f}"
    environment.filters["percent"] = lambda value: "not run" if value is None else f"{value:.1f}"
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return environment
