"""The style that every figure of farfield shares, and the one way in which a figure becomes a file.

Matplotlib is imported when it is first needed. The same figure gives the same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farfield.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#222222", "#6b6b6b", "#d0d0d0"
FORMATS = (".png", ".svg", ".pdf")

_STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.limits": (-4, 6),
    "axes.unicode_minus": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 160,
    "svg.hashsalt": "farfield",  # the same forecast gives the same file
    "text.parse_math": False,  # run names may hold dollar signs
}


@contextmanager
def style() -> Iterator[None]:
    """The house style, for the length of a ``with`` block."""
    import matplotlib

    with matplotlib.rc_context(dict(_STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # run names in any script
        yield


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the ending of `path`; a killed run leaves the old file or the new one."""
    import io

    from farfield.files import write_atomic

    target = Path(path)
    kind = check_format(target)
    buffer = io.BytesIO()
    stamp: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with style():
        _write_out_powers(figure)
        figure.savefig(buffer, format=kind, metadata=stamp)
    write_atomic(target, buffer.getvalue())


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """`ax`, or where it is None the axes of a figure opened for the caller, `size` (width, height) in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def save_plot(plot: Callable[[Axes], object], path: str | Path, size: tuple[float, float]) -> None:
    """Write the figure that `plot` draws on one pair of axes, `size` (width, height) in inches, as :func:`save_figure` does."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    with style():
        plot(figure.subplots())
    save_figure(figure, path)


def _write_out_powers(figure: Figure) -> None:
    """Label logarithmic axes 0.01 and 1e-7: matplotlib's own labels are mathematics, which the style leaves as it is written."""
    from matplotlib.ticker import LogFormatter

    from farfield.wording import tick

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            axis.set_major_formatter(lambda value, _: tick(value))
            axis.set_minor_formatter(lambda value, _: "")


def check_format(path: str | Path) -> str:
    """The format that a figure's path asks for, such as ``png``; InputError unless it is one of `FORMATS`."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"--plot {path}: the file must end in one of {', '.join(FORMATS)}; {suffix or 'no ending'} was given")
    return suffix[1:]
