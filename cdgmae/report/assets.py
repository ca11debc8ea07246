"""Scripts and styles that all pages share: plain files in one folder, so that pages open from the file system, offline."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

import vl_convert

from cdgmae.storage.files.atomic import write_text

ASSETS = "assets"
"""Folder of the shared files in the report."""

CHART_LIBRARY = "vega.js"
"""Vega, Vega-Lite and vega-embed in one script; sets `window.vega` and `window.vegaEmbed`."""

SHARED = ("report.css", "charts.js")


def write_assets(output: Path, names: tuple[str, ...] = ()) -> None:
    """Write the chart library, the stylesheet, `charts.js` and the named scripts to `output`/assets.

    Args:
        output: Folder of the report.
        names: Further files of `cdgmae/report/static`, such as a page's own script.
    """
    folder = output / ASSETS
    write_text(folder / CHART_LIBRARY, chart_library())
    for name in (*SHARED, *names):
        write_text(folder / name, static_text(name))


def static_text(name: str) -> str:
    """A file of `cdgmae/report/static`."""
    return resources.files("cdgmae.report").joinpath("static", name).read_text(encoding="utf-8")


@functools.cache
def chart_library() -> str:
    """The chart library as one script without imports; put together once per process, as that takes seconds."""
    return str(vl_convert.javascript_bundle("window.vega = vega; window.vegaEmbed = vegaEmbed;"))
