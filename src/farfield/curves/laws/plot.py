"""Lines of equal loss over compute and size: where the sweep lies, what size a budget wants, how far that is from what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.errors import InputError
from farfield.figures import axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from farfield.curves.data import FloatArray
    from farfield.curves.laws.scaling import Scaling


@style()
def plot_scaling(scaling: Scaling, ax: Axes | None = None) -> Axes:
    """Draw the best law that needs params and tokens alone; raises InputError where no such law was fitted."""
    from matplotlib import colormaps

    flat = [law for law in scaling.laws if law.form in ("chinchilla", "kaplan")]
    if not flat:
        raise InputError("the figure is drawn for the chinchilla and kaplan laws; neither was fitted")
    law = flat[0]
    ax = axes_or_new(ax, (7.0, 5.0))
    targets = [row for row in scaling.targets if row["law"] == "pooled"]
    asked = [scaling.flops_per * row["params"] * row["tokens"] for row in targets]
    compute = np.geomspace(scaling.flops.min() / 2, 2 * max([float(scaling.flops.max()), *asked]), 80)
    sizes = [scaling.x["params"].min(), scaling.x["params"].max(), *(row["params"] for row in targets)]
    params = np.geomspace(min(sizes) / 2, 2 * max(sizes), 80)
    c, n = np.meshgrid(compute, params)
    tokens = c / scaling.flops_per / n
    loss = law.expected(np.column_stack([n.ravel(), tokens.ravel()])).reshape(n.shape)
    # no line for runs of fewer tokens than a thousandth of the shortest: they are not of this world
    loss = np.where(tokens < scaling.x["tokens"].min() / 1e3, np.nan, loss)
    least = float(np.nanmin(loss))
    lines = np.unique(np.round(np.geomspace(1.005 * least, max(1.2 * least, float(np.quantile(scaling.loss, 0.9))), 9), 2))
    shades = colormaps["viridis"](np.linspace(0, 0.85, len(lines))[::-1])  # its lightest yellow is lost on white
    drawn = ax.contour(c, n, loss, levels=lines, colors=shades, linewidths=0.8)
    for line, shade, path in zip(lines, shades, drawn.get_paths(), strict=True):
        _label_line(ax, f"{line:.2f}", shade, np.asarray(path.vertices), float(compute[-1]))
    ax.scatter(scaling.flops, scaling.x["params"], c="#404040", s=10, label="runs", zorder=3)
    if law.identifiability_.split:
        along = np.geomspace(compute[0], compute[-1], 25)
        best = [law.minimise(budget, flops_per=scaling.flops_per) for budget in along]
        ends = np.array([b.interval(scaling.level)["params"] for b in best])
        ax.plot(along, [b.params for b in best], color="#c0392b", label=f"compute-optimal, {law.form}")
        ax.fill_between(along, ends[:, 0], ends[:, 1], color="#c0392b", alpha=0.15, lw=0)
    if targets:
        ax.scatter(asked, [row["params"] for row in targets], marker="*", s=90, color="#c0392b", label="asked", zorder=4)
    ax.axvline(float(scaling.flops.max()), color="#888888", ls=":", lw=1)
    ax.set(xscale="log", yscale="log", xlabel="training compute (FLOPs)", ylabel="params", ylim=(params[0], params[-1]))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e+", "e"))
    ax.set_title("lines of equal loss; dotted: largest run seen", fontsize=9)
    ax.legend(fontsize=8, loc="upper left")
    return ax


def _label_line(ax: Axes, text: str, colour: Any, at: FloatArray, right: float) -> None:
    """Write a line's loss where its lower branch ends: beside the right edge, else above the lowest point that is drawn."""
    end = at[at[:, 0] >= right * (1 - 1e-9)]
    if len(end):
        spot, offset, side = end[end[:, 1].argmin()], (4, 0), "left"
    elif len(at):
        spot, offset, side = at[at[:, 1].argmin()], (-3, 4), "right"
    else:
        return
    ax.annotate(
        text, spot, offset, textcoords="offset points", ha=side, va="center", color=colour, fontsize=7, annotation_clip=False
    )
