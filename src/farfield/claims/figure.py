"""The figure of a claim, drawn from its results file alone: the same file gives the same bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farfield.files import write_atomic

_COLOURS = {"holds": "#1b7f4d", "weaker": "#a07000", "inconclusive": "#666666", "fails": "#b3261e", "not run": "#666666"}
_LINES = ("#1f5fa8", "#c25e00", "#5b3f8c", "#1b7f4d", "#8a8a8a")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the figure of `result` (as `farfield.claims.results.build` gives it) to `path`, an SVG file.

    One strip a criterion: every replicate, the interval, the threshold; beside them the curves of the first seed, if it has any.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows, curves = result["criteria"], result["curves"]
    settings: Any = {"svg.hashsalt": result["id"], "svg.fonttype": "none", "font.size": 8.0}
    with matplotlib.rc_context(settings):
        height = max(2.6 if curves else 1.0, 0.85 * len(rows)) + 0.9
        figure = Figure(figsize=(9.0 if curves else 5.5, height))
        FigureCanvasSVG(figure)
        columns = 2 if curves else 1
        grid = figure.add_gridspec(
            max(len(rows), 2), columns, left=0.06, right=0.97, top=1 - 0.75 / height, bottom=0.4 / height, hspace=1.4, wspace=0.18
        )
        for i, row in enumerate(rows):
            _strip(figure.add_subplot(grid[i, 0]), row)
        if curves:
            _curves(figure.add_subplot(grid[:, 1]), curves, result["axes"])
        title = textwrap.shorten(f"{result['id']} {result['title']}", 95 if curves else 60)
        figure.text(0.02, 1 - 0.22 / height, title, fontsize=9, weight="bold")
        under = f"{result['verdict']} ({result['budget']} budget, {len(result['seeds'])} seeds, {result['date']})"
        figure.text(0.02, 1 - 0.42 / height, under, color=_COLOURS[result["verdict"]], fontsize=9)
        if not rows:
            figure.text(0.02, 0.35, textwrap.fill(str(result["reason"]), 80))
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    write_atomic(path, out.getvalue())


def _strip(axes: Any, row: Mapping[str, Any]) -> None:
    colour = _COLOURS[row["verdict"]]
    low, high = row["low"], row["high"]
    axes.plot(row["differences"], [0.0] * len(row["differences"]), "|", color=colour, markersize=9, alpha=0.7)
    if low is not None and high is not None:
        axes.plot([low, high], [-0.45, -0.45], color=colour, linewidth=2.5)
        axes.plot([row["estimate"]], [-0.45], "o", color=colour, markersize=4)
    axes.axvline(row["threshold"], color="black", linewidth=0.8, linestyle="--")
    if row["kind"] not in ("bound", "exact") and row["threshold"] != 0:
        axes.axvline(0.0, color="black", linewidth=0.4)
    axes.set_ylim(-0.9, 0.6)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=6)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        textwrap.shorten(f"{row['verdict']}: {row['text']}", 85, placeholder=" ..."), loc="left", fontsize=7.5, color=colour
    )


def _curves(axes: Any, curves: list[Mapping[str, Any]], labels: list[str]) -> None:
    for i, curve in enumerate(curves):
        colour = _LINES[i % len(_LINES)]
        points = curve["name"].startswith(".")  # a name that starts with a dot is drawn as points
        axes.plot(
            curve["x"],
            curve["y"],
            "." if points else "-",
            color=colour,
            label=curve["name"].lstrip("."),
            linewidth=1.3,
            markersize=4,
        )
        if "low" in curve and "high" in curve:
            axes.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(frameon=False, fontsize=7)
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)
