"""What all pages share: files that need no network, one palette, one navigation, and specifications that cannot leave their script."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cdgmae.report.assets import static_text, write_assets
from cdgmae.report.rendering import PAGES, template_environment
from cdgmae.report.svg_figures import PALETTE


def test_assets_are_plain_scripts_and_styles(tmp_path: Path) -> None:
    write_assets(tmp_path)
    assert {path.name for path in (tmp_path / "assets").iterdir()} >= {"vega.js", "report.css", "charts.js"}
    library = (tmp_path / "assets" / "vega.js").read_text(encoding="utf-8")
    assert "window.vegaEmbed=" in library
    assert not re.search(r"^(import|export)\b", library, flags=re.MULTILINE)
    assert len(library) < 2e6
    for name in ("report.css", "charts.js"):
        assert not re.search(r"https?:|@import|url\(|fetch\(", (tmp_path / "assets" / name).read_text(encoding="utf-8"))


def test_charts_have_the_palette_of_the_figures() -> None:
    colours = re.search(r"palette: (\[.*?\])", static_text("charts.js"))
    assert colours is not None
    assert tuple(json.loads(colours[1])) == PALETTE


def test_a_pages_navigation_and_assets_are_relative_to_it() -> None:
    environment = template_environment()
    page = environment.from_string('{% extends "base.html.j2" %}{% block title %}x{% endblock %}')
    text = page.render(pages=PAGES, page="deep/index.html", root="../")
    assert 'href="../assets/report.css"' in text
    assert re.findall(r'<a href="([^"]+)"', text) == [f"../{address}" for address in PAGES]
    assert "aria-current" not in text
    assert page.render(pages=PAGES, page="index.html", root="").count('aria-current="page"') == 1
