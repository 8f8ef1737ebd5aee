"""Charts as hand-written SVG for the report: a few kilobytes each, coloured by the page's own style sheet.

Every function returns markup in which numbers are ours and every text has been escaped. Colours, line styles and fonts are
classes of ``page/report.css``, so that the same chart serves light, dark and paper.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from farfield.curves.data import FloatArray
from farfield.curves.panels import Panel
from farfield.wording import tick

WIDTH, HEIGHT = 250.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 36.0, 244.0, 8.0, 130.0


def text(value: str) -> str:
    """`value` escaped for markup, in text and in quoted attributes."""
    return html.escape(value, quote=True)


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map of data in [low, high] to positions in [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: ArrayLike) -> FloatArray:
        low, high, v = self.low, self.high, np.asarray(values, dtype=np.float64)
        if self.log:
            low, high, v = math.log(low), math.log(high), np.log(v)
        span = (high - low) or 1.0
        out: FloatArray = np.clip(self.start + (v - low) / span * (self.end - self.start), -1e4, 1e4)
        return out

    def ticks(self, most: int = 4) -> list[float]:
        """At most `most` round values inside the range."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**e for e in range(first, last + 1, max(1, math.ceil((last - first + 1) / most)))]
        span = self.high - self.low
        if not span / most > 0:
            return [self.low]
        size = 10.0 ** math.floor(math.log10(span / most))
        for step in (size * m for m in (1, 2, 5, 10, 20)):
            inside = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            if len(inside) <= most:
                break
        return [k * step for k in inside]


def line(x: FloatArray, y: FloatArray) -> str:
    """A path through points, (n,) each, positions to a tenth."""
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def band(x: FloatArray, low: FloatArray, high: FloatArray) -> str:
    """A closed path between two curves over the same x."""
    return line(np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]])) + "Z"


def run_panel(p: Panel, *, log: bool, y_limits: tuple[float, float] | None = None) -> str:
    """One run: seen, bands and median beyond, the interval at the end, planned end and start of the decay."""
    low, high = y_limits or p.y_range
    pad = 0.06 * (high - low)
    x = Scale(*_padded(p.x_range, log), LEFT, RIGHT, log)
    y = Scale(low - pad, high + pad, BOTTOM, TOP)
    marks = []
    if math.isfinite(p.planned_end):
        marks.append(_vertical("end", float(x(p.planned_end))))
    if math.isfinite(p.decay_at):
        at = float(x(p.decay_at))
        marks.append(_vertical("decay", at) + f'<path class="decay-tip" d="M{at - 3.5:.1f} {TOP}h7l-3.5 6z"/>')
    if p.beyond.size:
        at_x, bands = x(p.beyond), y(p.bands)
        outer = "outer" if p.calibrated else "outer loose"
        marks.append(f'<path class="{outer}" d="{band(at_x, bands[0], bands[4])}"/>')
        marks.append(f'<path class="inner" d="{band(at_x, bands[1], bands[3])}"/>')
        marks.append(f'<path class="beyond" d="{line(at_x, bands[2])}"/>')
    if p.hidden_x.size:
        marks.append(f'<path class="came" d="{line(x(p.hidden_x), y(p.hidden_y))}"/>')
    if p.x.size:
        marks.append(f'<path class="seen" d="{line(x(p.x), y(p.y))}"/>')
        if p.x.size < 8:
            marks += [f'<circle class="seen-dot" cx="{a:.1f}" cy="{b:.1f}" r="1.6"/>' for a, b in zip(x(p.x), y(p.y), strict=True)]
    if math.isfinite(p.low):
        at = float(x(p.at))
        marks.append(f'<path class="whisker" d="M{at:.1f} {float(y(p.low)):.1f}V{float(y(p.high)):.1f}"/>')
        marks.append(f'<circle class="dot" cx="{at:.1f}" cy="{float(y(p.value)):.1f}" r="2.4"/>')
    size = f"{LEFT} {TOP} {RIGHT - LEFT} {BOTTOM - TOP}"
    inside = f'<svg x="{LEFT}" y="{TOP}" width="{RIGHT - LEFT}" height="{BOTTOM - TOP}" viewBox="{size}">'
    return _chart(WIDTH, HEIGHT, _axes(x, y) + inside + "".join(marks) + "</svg>")


def strip(low: float, value: float, high: float, last: float, limits: tuple[float, float], calibrated: bool) -> str:
    """One row's interval on the scale all rows share: last value as a tick, forecast as a dot with its interval."""
    x = Scale(*limits, 4.0, 116.0)
    marks = []
    if math.isfinite(last):
        at = float(x(last))
        marks.append(f'<path class="last" d="M{at:.1f} 2V12"/>' if 0 <= at <= 120 else "")
    if math.isfinite(low):
        a, b = np.clip(x(np.array([low, high])), 0, 120)
        marks.append(f'<path class="whisker{"" if calibrated else " loose"}" d="M{a:.1f} 7H{b:.1f}"/>')
    if math.isfinite(value):
        at = float(x(value))
        marks.append(
            f'<circle class="{"dot" if math.isfinite(low) else "seen-dot"}" cx="{at:.1f}" cy="7" r="2.6"/>'
            if 0 <= at <= 120
            else ""
        )
    return f'<svg class="strip" viewBox="0 0 120 14" aria-hidden="true">{"".join(marks)}</svg>'


@dataclass(frozen=True)
class Series:
    """One line of a chart by reach: values (n,), NaN where there is none, and their intervals where known."""

    label: str
    style: str
    values: FloatArray
    low: FloatArray | None = None
    high: FloatArray | None = None


def reach_chart(
    bands: Sequence[str], series: Sequence[Series], *, limits: tuple[float, float], nominal: Sequence[float] = (), name: str
) -> str:
    """Lines over bands of reach, each labelled at its end; `nominal` levels are dotted lines across."""
    width, right = 360.0, 268.0
    x = Scale(-0.3, len(bands) - 0.7, LEFT, right)
    y = Scale(*limits, BOTTOM, TOP)
    out = [_axis_y(y, right, [limits[0], *nominal, 100.0] if nominal else y.ticks(5))]
    out += [
        f'<text class="tick" x="{float(x(i)):.1f}" y="{BOTTOM + 13}" text-anchor="middle">{text(b)}</text>'
        for i, b in enumerate(bands)
    ]
    middle = f'x="{(LEFT + right) / 2:.0f}" y="{BOTTOM + 27}" text-anchor="middle"'
    out.append(f'<text class="tick" {middle}>reach (target over last seen x)</text>')
    out += [f'<path class="nominal" d="M{LEFT} {float(y(v)):.1f}H{right}"/>' for v in nominal]
    ends = []
    for k, s in enumerate(series):
        at = x(np.arange(len(s.values)) + (0.05 * (k - (len(series) - 1) / 2) if s.low is not None else 0.0))
        ok = np.isfinite(s.values)
        if not ok.any():
            continue
        values = y(s.values)
        if s.low is not None and s.high is not None:
            for a, lo, hi in zip(at[ok], y(s.low)[ok], y(s.high)[ok], strict=True):
                out.append(f'<path class="spread {s.style}" d="M{a:.1f} {lo:.1f}V{hi:.1f}"/>' if math.isfinite(lo + hi) else "")
        out.append(f'<path class="series {s.style}" d="{line(at[ok], values[ok])}"/>')
        out += [
            f'<circle class="point {s.style}" cx="{a:.1f}" cy="{b:.1f}" r="2.2"/>' for a, b in zip(at[ok], values[ok], strict=True)
        ]
        ends.append((float(values[ok][-1]), s))
    for at_y, s in _spread([e[0] for e in ends], [e[1] for e in ends]):
        out.append(f'<text class="label {s.style}" x="{right + 6}" y="{at_y + 3:.1f}">{text(s.label)}</text>')
    return _chart(width, HEIGHT + 12, "".join(out), name)


def _spread(at: list[float], series: list[Series], gap: float = 11.0) -> list[tuple[float, Series]]:
    """Label positions moved apart until none overlap, from the bottom up."""
    out: list[tuple[float, Series]] = []
    for y, s in sorted(zip(at, series, strict=True), key=lambda e: -e[0]):
        out.append((min(y, out[-1][0] - gap) if out else y, s))
    short = max(0.0, TOP - out[-1][0]) if out else 0.0
    return [(y + short, s) for y, s in out]


def _padded(limits: tuple[float, float], log: bool) -> tuple[float, float]:
    low, high = limits
    if log:
        return low * (low / high) ** 0.02, high * (high / low) ** 0.03
    return low - 0.02 * (high - low), high + 0.03 * ((high - low) or 1.0)


def _axes(x: Scale, y: Scale) -> str:
    out = [_axis_y(y, RIGHT, y.ticks(4))]
    ticks = x.ticks(4)
    for v in ticks:
        at = float(x(v))
        label = tick(round(v, 12), max(ticks))
        anchor, at = ("end", WIDTH) if at + 2.8 * len(label) > WIDTH else ("middle", at)
        out.append(f'<text class="tick" x="{at:.1f}" y="{BOTTOM + 13}" text-anchor="{anchor}">{label}</text>')
    return "".join(out)


def _axis_y(y: Scale, right: float, ticks: Sequence[float]) -> str:
    out = []
    for v in ticks:
        at = float(y(v))
        out.append(f'<path class="rule" d="M{LEFT} {at:.1f}H{right}"/>')
        out.append(f'<text class="tick" x="{LEFT - 4}" y="{at + 3:.1f}" text-anchor="end">{tick(round(v, 12), max(ticks))}</text>')
    return "".join(out)


def _vertical(style: str, at: float) -> str:
    return f'<path class="{style}" d="M{at:.1f} {TOP}V{BOTTOM}"/>'


def _chart(width: float, height: float, inside: str, name: str = "") -> str:
    label = f' role="img" aria-label="{text(name)}"' if name else ' aria-hidden="true"'
    return f'<svg viewBox="0 0 {width:g} {height:g}"{label}>{inside}</svg>'
