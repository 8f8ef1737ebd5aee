"""Figures of forecasts and backtests.

Seen and beyond differ in colour *and* in line: what was seen is a solid dark line, what lies beyond a dashed blue one inside
its bands. The colours are Okabe and Ito's, which stay apart for colour-blind readers. Matplotlib is imported on first use, and
pyplot only when a figure has to be opened for the caller.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.curves.panels import INNER, Panel, draw_order, log_x, panels, shared_y
from farfield.curves.results import Backtest, Forecast, ForecastStatus
from farfield.figures import INK, MUTED, RULE, axes_or_new, style
from farfield.wording import count, name_of, number, reach_band, tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEYOND, DECAY, ALERT = "#0072B2", "#D55E00", "#CC79A7"
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito
_BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # keeps words legible where a line crosses them


def plot_forecast(forecast: Forecast, ax: Axes | None = None, *, most: int = 6) -> Axes:
    """Every seen curve in one set of axes, with the forecasts of the `most` best ones labelled at their ends."""
    with style():
        ax = axes_or_new(ax, (6.4, 4.0))
        order = draw_order(forecast)
        drawn = panels(forecast, order)
        top = [p for p in drawn if p.status.forecasts][:most] or drawn[:most]
        chosen = {p.index for p in top}
        for p in drawn:
            if p.index not in chosen and p.x.size:
                ax.plot(p.x, p.y, color=RULE, lw=0.7, zorder=1)
        for p, colour in zip(top, SERIES, strict=False):
            _draw_run(ax, p, seen=colour, beyond=colour, width=1.2)
        _set_limits(ax, top or drawn, log_x(drawn))
        _label_ends(ax, [(p.at, p.value, f"{name_of(p.run, 28)}  {number(p.value)}", c) for p, c in zip(top, SERIES, strict=False)])
        ax.set_xlabel(forecast.curves.x_name)
        ax.set_ylabel(forecast.curves.metric.name)
        ax.set_title(_headline(forecast), loc="left", color=INK, fontweight="bold")
    return ax


def plot_backtest(backtest: Backtest, ax: Axes | None = None) -> Axes:
    """How often intervals held by reach, each level beside its nominal line."""
    with style():
        ax = axes_or_new(ax, (6.4, 4.0))
        _draw_coverage(ax, backtest)
    return ax


def forecast_figure(forecast: Forecast, *, most: int = 12) -> Figure:
    """Small multiples of the best runs, one panel each, with the backtest's coverage as the last panel."""
    order = draw_order(forecast)
    live = [i for i in order if forecast.status[i].forecasts]
    backtest = forecast.backtest if forecast.backtest is not None and forecast.backtest.n else None
    room = most - (backtest is not None)
    chosen = np.array(live[:room] or order[:room], dtype=np.int64)
    drawn = panels(forecast, chosen)
    n = len(drawn) + (backtest is not None)
    columns = max(1, min(n, 4 if n > 6 else 3))
    rows = max(1, math.ceil(n / columns))
    with style():
        figure, axes = _grid(rows, columns, panel=(1.98, 1.3), gap=(0.5, 0.62), head=1.12)
        on_log, limits = log_x(drawn), shared_y(drawn)
        for ax, p in zip(axes, drawn, strict=False):
            _draw_run(ax, p)
            _set_limits(ax, [p], on_log, limits)
            _panel_title(ax, p, forecast.curves.metric.goal)
        if backtest is not None:
            _draw_coverage(axes[n - 1], backtest)
        for ax in axes[n:]:
            ax.set_visible(False)
        for ax in axes[(rows - 1) * columns : len(drawn)] or axes[: len(drawn)]:
            ax.set_xlabel(forecast.curves.x_name)
        of = f", the {count(len(drawn), 'best run')} of {len(live)} forecast" if len(drawn) < len(live) else ""
        top = figure.get_figheight()
        figure.text(0.012, 1 - 0.12 / top, _headline(forecast) + of, va="top", fontsize=10.5, fontweight="bold")
        scale = "one y scale" if limits else "y scale of its own in each panel"
        figure.text(
            0.012, 1 - 0.32 / top, f"{forecast.came_label or forecast.interval_label}; {scale}", va="top", color=MUTED, fontsize=8
        )
        _legend(figure, forecast, drawn, 1 - 0.46 / top)
    return figure


def backtest_figure(backtest: Backtest) -> Figure:
    """Coverage, error and interval width by reach, each method labelled at the end of its line."""
    kinds = [k for k in ("mae", "width80") if _has(backtest, k)]
    with style():
        figure, axes = _grid(1, 1 + len(kinds), panel=(2.7, 2.3), gap=(1.4, 0.0), head=0.62)
        _draw_coverage(axes[0], backtest)
        titles = {"mae": f"mean absolute error of {backtest.metric.name}", "width80": "mean width of 80 % intervals"}
        for ax, kind in zip(axes[1:], kinds, strict=True):
            _draw_score(ax, backtest, kind)
            ax.set_title(titles[kind], loc="left")
        figure.text(0.012, 1 - 0.12 / figure.get_figheight(), backtest.summary(), va="top", fontsize=9.5, fontweight="bold")
    return figure


# -- pieces -----------------------------------------------------------------------------------------------------------------


def _grid(
    rows: int, columns: int, *, panel: tuple[float, float], gap: tuple[float, float], head: float
) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, sizes in inches, with `head` above them for the words; laid out by hand, which is quick."""
    from matplotlib.figure import Figure

    left, right, bottom = 0.5, max(0.45, gap[0] - 0.3), 0.48
    width = left + columns * panel[0] + (columns - 1) * gap[0] + right
    height = head + rows * panel[1] + (rows - 1) * gap[1] + bottom
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": left / width,
            "right": 1 - right / width,
            "bottom": bottom / height,
            "top": 1 - head / height,
            "wspace": gap[0] / panel[0],
            "hspace": gap[1] / panel[1],
        },
    )
    return figure, list(grid.flat)


def _headline(forecast: Forecast) -> str:
    ends = np.unique(forecast.at[forecast.forecast_index])
    where = f" at {forecast.curves.x_name} {number(ends[0])}" if ends.size == 1 else ""
    label = forecast.estimate_label
    return f"{label[0].upper()}{label[1:]}{where}"


def _draw_run(ax: Axes, p: Panel, *, seen: str = INK, beyond: str = BEYOND, width: float = 1.0) -> None:
    ax.plot(p.x, p.y, color=seen, lw=width, solid_joinstyle="round", zorder=3, marker="o" if p.x.size < 8 else None, ms=2)
    if p.beyond.size:
        if p.calibrated:
            ax.fill_between(p.beyond, p.bands[0], p.bands[4], color=beyond, alpha=0.16, lw=0, zorder=1)
        else:
            ax.fill_between(p.beyond, p.bands[0], p.bands[4], fc="none", ec=beyond, hatch="////", alpha=0.4, lw=0, zorder=1)
        ax.fill_between(p.beyond, p.bands[1], p.bands[3], color=beyond, alpha=0.26, lw=0, zorder=2)
        ax.plot(p.beyond, p.bands[2], color=beyond, lw=width + 0.2, ls=(0, (3, 1.6)), zorder=4)
    if math.isfinite(p.low):
        ax.plot([p.at, p.at], [p.low, p.high], color=beyond, lw=1.6, zorder=4, solid_capstyle="butt")
        ax.plot([p.at], [p.value], "o", color=beyond, ms=3.2, zorder=5)
    if p.hidden_x.size:
        ax.plot(p.hidden_x, p.hidden_y, color=seen, lw=0.7, alpha=0.75, zorder=3)
    if math.isfinite(p.planned_end):
        ax.axvline(p.planned_end, color=RULE, lw=0.8, zorder=0)
    if math.isfinite(p.decay_at):
        ax.axvline(p.decay_at, color=DECAY, lw=0.9, ls=(0, (1, 1.5)), zorder=0)
        ax.plot([p.decay_at], [1.0], "v", color=DECAY, ms=4, transform=ax.get_xaxis_transform(), clip_on=False, zorder=5)


def _set_limits(ax: Axes, drawn: list[Panel], on_log: bool, limits: tuple[float, float] | None = None) -> None:
    from matplotlib.ticker import MaxNLocator

    ranges = np.array([p.x_range for p in drawn] or [(0.0, 1.0)])
    x0, x1 = float(ranges[:, 0].min()), float(ranges[:, 1].max())
    if on_log:
        ax.set_xscale("log")
        ax.set_xlim(x0 * (x0 / x1) ** 0.03, x1 * (x1 / x0) ** 0.03)
    else:
        ax.set_xlim(x0 - 0.03 * (x1 - x0 or 1.0), x1 + 0.03 * (x1 - x0 or 1.0))
        ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.xaxis.set_major_formatter(lambda value, _: tick(value, x1))
    if limits is None:
        y = np.array([p.y_range for p in drawn] or [(0.0, 1.0)])
        limits = float(y[:, 0].min()), float(y[:, 1].max())
    pad = 0.06 * (limits[1] - limits[0])
    ax.set_ylim(limits[0] - pad, limits[1] + pad)
    ax.yaxis.set_major_locator(MaxNLocator(3))


def _panel_title(ax: Axes, p: Panel, goal: str) -> None:
    ax.set_title(name_of(p.run, 36) + "\n", loc="left", color=INK, pad=4.5, fontsize=7.5)
    value = number(p.value)
    if math.isfinite(p.low):
        value += f" [{number(p.low)}, {number(p.high)}]" + ("" if p.calibrated else " uncalibrated")
    ax.annotate(
        value,
        (0, 1),
        (0, 3),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        color=BEYOND,
        fontsize=7,
        annotation_clip=False,
    )
    if p.status is not ForecastStatus.CONTINUE:
        corner, side = (0.97, "top") if goal == "min" else (0.04, "bottom")  # where an improving curve leaves room
        ax.text(0.94, corner, p.status.words, transform=ax.transAxes, ha="right", va=side, color=MUTED, fontsize=6.5, bbox=_BEHIND)


def _legend(figure: Figure, forecast: Forecast, drawn: list[Panel], y: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=INK, lw=1.0, label="seen")]
    if any(p.beyond.size for p in drawn):
        handles += [
            Line2D([], [], color=BEYOND, lw=1.2, ls=(0, (3, 1.6)), label="beyond (median)"),
            Patch(color=BEYOND, alpha=0.42, lw=0, label=f"{100 * INNER:g} %"),
            Patch(color=BEYOND, alpha=0.16, lw=0, label=f"{100 * forecast.level:g} %"),
        ]
    if any(p.hidden_x.size for p in drawn):
        handles.append(Line2D([], [], color=INK, lw=0.7, alpha=0.75, label="hidden: what came"))
    if any(p.beyond.size and not p.calibrated for p in drawn):
        handles.append(Patch(facecolor="none", edgecolor=BEYOND, alpha=0.35, hatch="////", lw=0, label="uncalibrated"))
    if any(math.isfinite(p.planned_end) for p in drawn):
        handles.append(Line2D([], [], color=RULE, lw=1.0, label="planned end"))
    if any(math.isfinite(p.decay_at) for p in drawn):
        handles.append(Line2D([], [], color=DECAY, lw=0.9, ls=(0, (1, 1.5)), marker="v", ms=4, label="learning-rate decay begins"))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.004, y),
        ncols=len(handles),
        handlelength=1.8,
        columnspacing=1.4,
        borderpad=0.2,
    )


def _bands(backtest: Backtest, method: str) -> Any:
    return backtest.by_reach.filter(backtest.by_reach["method"] == method)


def _has(backtest: Backtest, score: str) -> bool:
    frame = backtest.by_reach
    return score in frame.columns and frame[score].is_not_null().any()


def _reach_axis(ax: Axes, frame: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    at = np.arange(frame.height, dtype=np.float64)
    ax.set_xticks(at, [reach_band(a, b) for a, b in zip(frame["reach_low"], frame["reach_high"], strict=True)])
    ax.set_xlabel("reach (target over last seen x)")
    return at


def _draw_coverage(ax: Axes, backtest: Backtest) -> None:
    frame = _bands(backtest, backtest.method)
    at = _reach_axis(ax, frame)
    ends = []
    for k, level in enumerate((50, 80, 90)):
        if not _has(backtest, f"coverage{level}"):
            continue
        colour = SERIES[k]
        value = 100 * frame[f"coverage{level}"].cast(float).to_numpy()
        ax.axhline(level, color=colour, lw=0.7, ls=(0, (1, 2)), zorder=1)
        ax.plot(at + 0.06 * (k - 1), value, "o-", color=colour, ms=3.5, lw=1.1, zorder=3)
        _error_bars(ax, at + 0.06 * (k - 1), frame, f"coverage{level}", colour, scale=100)
        ends.append((at[-1] if at.size else 0.0, float(level), f"{level} %", colour))
    ax.set_ylim(0, 103)
    ax.set_yticks([0, 50, 80, 90, 100] if ends else [0, 50, 100])
    _label_ends(ax, ends)
    ax.set_title("backtest: intervals that held, %", loc="left")


def _draw_score(ax: Axes, backtest: Backtest, score: str) -> None:
    ends = []
    for k, method in enumerate(backtest.methods):
        frame = _bands(backtest, method)
        if score not in frame.columns or not frame[score].is_not_null().any():
            continue
        ours = method == backtest.method
        colour = BEYOND if ours else MUTED
        at = _reach_axis(ax, frame)
        value = frame[score].cast(float).to_numpy()
        line = "-" if ours else ((0, (5, 1.2, 1, 1.2)), (0, (4, 1.5)), (0, (1, 1.2)), (0, (8, 1.5)))[k % 4]
        ax.plot(
            at, value, ls=line, marker="o", color=colour, ms=3.5 if ours else 2.5, lw=1.4 if ours else 0.9, zorder=3 if ours else 2
        )
        if ours:
            _error_bars(ax, at, frame, score, colour)
        ends.append((float(at[-1]), float(value[-1]), method, colour))
    ax.set_ylim(bottom=0)
    _label_ends(ax, ends)


def _error_bars(ax: Axes, at: Any, frame: Any, score: str, colour: str, scale: float = 1.0) -> None:
    if f"{score}_low" in frame.columns and f"{score}_high" in frame.columns:
        low, high = (scale * frame[f"{score}_{side}"].cast(float).to_numpy() for side in ("low", "high"))
        ax.vlines(at, low, high, color=colour, lw=0.9, zorder=2)


def _label_ends(ax: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each label to the right of its line's end, moved apart vertically until none overlap."""
    known = [e for e in ends if math.isfinite(e[1])]
    if not known:
        return
    low, high = ax.get_ylim()
    gap = 0.062 * (high - low)
    known.sort(key=lambda e: e[1])
    at = np.clip([e[1] for e in known], low, high)
    for i in range(1, len(at)):
        at[i] = max(at[i], at[i - 1] + gap)
    at -= max(0.0, (at[-1] - high))
    for (_, _, text, colour), y in zip(known, at, strict=True):
        ax.annotate(
            text,
            (1.0, y),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=7,
            annotation_clip=False,
        )
