"""Figures as SVG text: equal numbers give equal bytes, colours stay apart for colour-blind readers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from cdgmae.report.training_curves import Curve

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, darkest contrast to white first."""

LINE_STYLES = ("-", "--", "-.", ":")
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "cdgmae", "font.family": "sans-serif", "font.size": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e3e3e3", "axes.edgecolor": "#555555",
    "text.color": "#1c1c1c", "axes.labelcolor": "#1c1c1c", "xtick.color": "#333333", "ytick.color": "#333333",
}  # fmt: skip


def draw_curves(curves: Sequence[tuple[str, Curve]], *, x_label: str, y_label: str) -> str:
    """Lines in one plot with a legend below it, as SVG text.

    Args:
        curves: (label, points); a label's colour and dash depend on its place in the list alone.
        x_label: Meaning and unit of x.
        y_label: Meaning and unit of y.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.8), layout="constrained")
        axes = figure.subplots()
        for number, (label, (x, y)) in enumerate(curves):
            style = LINE_STYLES[number // len(PALETTE) % len(LINE_STYLES)]
            marker = "o" if len(x) == 1 else None
            axes.plot(x, y, label=label, color=PALETTE[number % len(PALETTE)], linestyle=style, linewidth=1.8, marker=marker)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=min(4, len(curves)), frameon=False)
        return _svg(figure)


def draw_scores(rows: Mapping[str, Sequence[tuple[float | None, float | None]]], titles: Sequence[str]) -> str:
    """One panel per score with a line per row: the paper's number as an open circle, ours as a filled square, as an SVG element.

    Args:
        rows: Row label -> (paper, ours) for every score; None where there is no number.
        titles: The scores.
    """
    labels = list(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 1.3 + 0.36 * len(labels)), layout="constrained")
        panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
        for number, (axes, title) in enumerate(zip(panels, titles, strict=True)):
            for place, name in enumerate(("paper", "ours")):
                known = [(row[number][place], y) for y, row in enumerate(rows.values()) if row[number][place] is not None]
                style = {"marker": "so"[place == 0], "markerfacecolor": "none" if name == "paper" else PALETTE[0]}
                axes.plot(
                    *zip(*known, strict=True) if known else ([], []), linestyle="", color=PALETTE[1 - place], label=name, **style
                )
            axes.set_title(title, fontsize=11)
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.5, -0.5)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
        svg = _svg(figure)
    return svg[svg.index("<svg") :]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
