"""The figure of a claim, drawn from its results file alone: the same file gives the same bytes."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farfield.files import write_atomic

_COLOURS = {"holds": "#1b7f4d", "weaker": "#a07000", "inconclusive": "#666666", "fails": "#b3261e", "not run": "#666666"}
# curves differ in colour and in dashes (points in their shape), so that those that coincide, and those printed grey, stay apart
_LINES = ("#1f5fa8", "#c25e00", "#5b3f8c", "#1b7f4d", "#c2417b", "#2a9fb8", "#8a6d00", "#8a8a8a")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)))
_MARKS = "os^Dv<>"
_KEY = (
    "Left: improvements, or differences where equality is claimed; of bounds, shares of trials; of trends, slopes. "
    "A tick is a replicate, the bar the interval of their mean, the dashed line what is claimed."
)
# inches
_HEAD, _FOOT, _PITCH, _STRIP, _LEGEND_ROW = 0.62, 0.4, 0.98, 0.36, 0.15
_LEAST_BODY, _TALLEST = 2.9, 3.6


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
        width = 9.0 if curves else 5.5
        height = _HEAD + max(_PITCH * max(len(rows), 1), _LEAST_BODY if curves else 0.0) + _FOOT
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)

        def axes(left: float, bottom: float, right: float, top: float) -> Any:
            return figure.add_axes((left / width, bottom / height, (right - left) / width, (top - bottom) / height))

        for i, row in enumerate(rows):
            bottom = height - _HEAD - (i + 1) * _PITCH + 0.3
            _strip(axes(0.5, bottom, 4.15 if curves else 5.2, bottom + _STRIP), row)
        if curves:
            top = height - _HEAD - _LEGEND_ROW * math.ceil(len(curves) / 2) - 0.06
            _curves(axes(5.0, max(_FOOT + 0.4, top - _TALLEST), 8.8, top), curves, result["axes"])
        title = textwrap.shorten(f"{result['id']} {result['title']}", 95 if curves else 60, placeholder=" ...")
        figure.text(0.2 / width, 1 - 0.22 / height, title, fontsize=9, weight="bold")
        under = f"{result['verdict']} ({result['budget']} budget, {len(result['seeds'])} seeds, {result['date']})"
        figure.text(0.2 / width, 1 - 0.42 / height, under, color=_COLOURS[result["verdict"]], fontsize=9)
        said = textwrap.fill(_KEY, 110) if rows else textwrap.fill(str(result["reason"]), 80)
        small: Any = {"fontsize": 6.5, "color": "#666666", "va": "bottom"} if rows else {}
        figure.text(0.2 / width, (0.06 if rows else 0.3) / height, said, **small)
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
    left, right = axes.get_xlim()
    if right - left < 1e-12:  # all of it is one number but for rounding
        axes.set_xlim(left - 1, right + 1)
    axes.set_ylim(-0.9, 0.6)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=6)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.set_title(textwrap.fill(f"{row['verdict']}: {row['text']}", 68), loc="left", fontsize=7.5, color=colour)


def _curves(axes: Any, curves: list[Mapping[str, Any]], labels: list[str]) -> None:
    kinds = _kinds(labels[0])
    for i, curve in enumerate(curves):
        look = _look(i, bool(kinds) or curve["name"].startswith("."), len(curve["x"]))
        axes.plot(curve["x"], curve["y"], label=curve["name"].lstrip("."), linewidth=1.3, markersize=2.6, **look)
        if "low" in curve and "high" in curve:
            axes.fill_between(curve["x"], curve["low"], curve["high"], color=look["color"], alpha=0.18, linewidth=0)
    if kinds:
        axes.set_xticks(list(kinds), list(kinds.values()))
        axes.margins(x=0.12)
    else:
        axes.set_xlabel(labels[0])
    axes.set_ylabel(textwrap.fill(labels[1], 42))
    axes.legend(
        frameon=False, fontsize=7, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.2, handlelength=2.6,
        labelspacing=0.25, columnspacing=1.2,
    )  # fmt: skip
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)


def _kinds(label: str) -> dict[float, str]:
    """Position -> name of an axis of kinds, whose label counts them: ``0 ours, 1 theirs``; empty for any other axis."""
    parts = [part.strip().split(" ", 1) for part in label.split(",")]
    counted = len(parts) > 1 and all(len(part) == 2 and part[0] == str(i) for i, part in enumerate(parts))
    return {float(i): textwrap.fill(name, 11) for i, (_, name) in enumerate(parts)} if counted else {}


def _look(i: int, points: bool, n: int) -> dict[str, Any]:
    """How curve `i` of `n` points is drawn; one whose name starts with a dot as points, one of a single point with it marked."""
    look = {"color": _LINES[i % len(_LINES)], "linestyle": "" if points else _DASHES[i % len(_DASHES)]}
    return look | ({"marker": _MARKS[i % len(_MARKS)]} if points or n == 1 else {})
