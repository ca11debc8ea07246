"""Templates of the report: where they lie, how numbers are written in them, and how a page is put together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from cdgmae.storage.files.atomic import write_text

PAGES = {
    "index.html": "Overview", "consistency/index.html": "Consistency", "pretrain/index.html": "Pre-training",
    "propagation/index.html": "Propagation", "encoders/index.html": "Encoders compared",
}  # fmt: skip
"""Page, relative to the report's folder -> its name in the navigation, in order."""


def template_environment() -> Environment:
    """Templates of `cdgmae.report`: everything is escaped, an unknown name is an error."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("cdgmae.report"), PackageLoader("cdgmae.report", "static")]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["whole"] = lambda value: f"{value:,}"
    environment.filters["similarity"] = lambda value: "none" if value is None else f"{value:.3f}"
    environment.filters["percent"] = lambda value: "not run" if value is None else f"{value:.1f}"
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return environment


def write_page(output: Path, page: str, template: str, **values: Any) -> Path:
    """Fill a template that extends `base.html.j2` and write it, whole or not at all.

    Args:
        output: Folder of the report.
        page: One of `PAGES`.
        template: Its template.
        values: What the template names, besides `pages`, `page` and `root` (the way from the page to the report's folder).

    Returns:
        The written file.
    """
    text = template_environment().get_template(template).render(pages=PAGES, page=page, root="../" * page.count("/"), **values)
    write_text(output / page, text)
    return output / page
