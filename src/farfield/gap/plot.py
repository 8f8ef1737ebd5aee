"""The figure of a gap: inside, reference and beyond with their intervals, the two steps between them, and loss by reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.figures import INK, MUTED, RULE
from farfield.gap.compare import score_by_reach
from farfield.gap.result import GapResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIFFICULTY, EXTRAPOLATION = "#E69F00", "#0072B2"  # Okabe and Ito, apart for colour-blind readers
_MARKS = {"inside": "o", "reference": "D", "beyond": "s"}


def plot_gaps(results: Sequence[GapResult], ax: Axes | None = None) -> Axes:
    """One row a model: its three scores with intervals, difficulty and extrapolation as the arrows between them."""
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(figsize=(7.0, 1.2 + 0.95 * len(results)), layout="constrained")
    for i, r in enumerate(results):
        y = float(len(results) - 1 - i)
        shift = {"inside": 0.0, "reference": 0.0, "beyond": 0.0}
        for name in ("inside", "reference", "beyond"):
            e = getattr(r, name)
            if e is None:
                continue
            shift[name] = y + {"inside": 0.22, "reference": 0.0, "beyond": -0.22}[name]
            face = "white" if name == "reference" else INK
            ax.plot([e.low, e.high], [shift[name]] * 2, color=INK, lw=1.1, solid_capstyle="butt", zorder=2)
            ax.plot([e.value], [shift[name]], _MARKS[name], ms=5.5, color=INK, mfc=face, zorder=3)
        if r.reference is not None and r.difficulty is not None and r.extrapolation is not None:
            steps = [("inside", "reference", DIFFICULTY), ("reference", "beyond", EXTRAPOLATION)]
        else:
            steps = [("inside", "beyond", MUTED)]
        for start, end, colour in steps:
            a, b = getattr(r, start).value, getattr(r, end).value
            ax.annotate(
                "", xy=(b, shift[end]), xytext=(a, shift[start]), zorder=1,
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.0, "shrinkA": 4, "shrinkB": 4, "mutation_scale": 10},
            )  # fmt: skip
        parts = [("gap ", r.gap, INK)]
        if r.difficulty is not None and r.extrapolation is not None:
            parts += [("= difficulty ", r.difficulty, "#9a6a00"), ("+ extrapolation ", r.extrapolation, EXTRAPOLATION)]
        for k, (word, e, colour) in enumerate(parts):
            text = f"{word}{e.value:+.3g} [{e.low:+.3g}, {e.high:+.3g}]"
            ax.annotate(
                text, (1.02, y + 0.22 - 0.22 * k), xycoords=("axes fraction", "data"), color=colour, fontsize=8, va="center"
            )
    ax.set_yticks(range(len(results)), [r.model for r in reversed(results)])
    ax.set_ylim(-0.55, len(results) - 0.45)
    first = results[0]
    better = "lower" if first.scoring.lower_is_better else "higher"
    ax.set_xlabel(f"{first.scoring.label} ({better} is better), {100 * first.level:g} % intervals", color=MUTED)
    handles = [
        ax.plot([], [], m, ms=5, color=INK, mfc="white" if n == "reference" else INK, ls="", label=n) for n, m in _MARKS.items()
    ]
    ax.legend(handles=[h[0] for h in handles], loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=8)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_color(RULE)
    return ax


def plot_reach(results: Sequence[GapResult], ax: Axes, bins: int = 8) -> Axes:
    """The score beyond by reach with its intervals, and the score inside as a level, for each model."""
    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
    dashes: tuple[Any, ...] = ("-", "--", "-.", ":")
    for i, r in enumerate(results):
        table = score_by_reach(r, bins, n_boot=500)
        colour, dash = colours[i % len(colours)], dashes[i % len(dashes)]
        x = table["reach"].to_numpy()
        ax.fill_between(x, table["low"].to_numpy(), table["high"].to_numpy(), color=colour, alpha=0.15, lw=0)
        ax.plot(x, table["value"].to_numpy(), dash, marker="s", ms=3.5, color=colour, lw=1.5, label=r.model)
        ax.axhline(r.inside.value, color=colour, ls=dash, lw=0.8, alpha=0.6)
    ax.set_xlabel("reach (1: edge of what was seen); thin lines: inside", color=MUTED)
    ax.set_ylabel(f"{results[0].scoring.label} beyond", color=MUTED)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        ax.spines[side].set_color(RULE)
    if len(results) > 1:
        ax.legend(frameon=False, fontsize=8)
    return ax


def gap_figure(results: Sequence[GapResult]) -> Figure:
    """The decomposition of each model, and the score by reach where the region has an order."""
    from matplotlib.figure import Figure

    ordered = all(r.per_row is not None and bool(np.isfinite(r.per_row["reach"]).all()) for r in results)
    height = 1.3 + 0.95 * len(results)
    figure = Figure(figsize=(8.4, height + (2.8 if ordered else 0.0)), layout="constrained")
    if not ordered:
        plot_gaps(results, figure.subplots())
        return figure
    upper, lower = figure.subplots(2, 1, height_ratios=[height, 2.8])
    plot_gaps(results, upper)
    plot_reach(results, lower)
    return figure
