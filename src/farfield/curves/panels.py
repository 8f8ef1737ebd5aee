"""What is drawn of each run, whoever draws it: thinned points, bands beyond, limits. No drawing library is needed here.

The figure (`curves.plot`) and the report (`curves.report`) both draw these panels, so they always agree.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from farfield.curves.data import FloatArray, Goal, IntArray
from farfield.curves.results import Forecast, ForecastStatus

INNER = 0.5  # level of the inner band; the outer one is the forecast's own level
_FAR = 1e300  # values further out lie beyond the edge: ranges of them, and the room about those, are no floats any more


@dataclass(frozen=True)
class Panel:
    """One run as it is drawn.

    Attributes
    ----------
    index, run, status, calibrated : which run, and what became of it
    x, y : (n,) what was seen, thinned
    beyond : (m,) x of the path beyond, rising
    bands : (5, m) quantiles there: low, lower quartile, median, upper quartile, high
    at, value, low, high : the forecast and its interval, NaN where there is none
    planned_end : NaN where not known
    decay_at : where a learning-rate decay that is still to come begins, NaN where none is
    goal : which way is better
    hidden_x, hidden_y : (k,) what came beyond, where the end was hidden on purpose
    """

    index: int
    run: str
    status: ForecastStatus
    calibrated: bool
    x: FloatArray
    y: FloatArray
    beyond: FloatArray
    bands: FloatArray
    at: float
    value: float
    low: float
    high: float
    planned_end: float
    decay_at: float
    hidden_x: FloatArray
    hidden_y: FloatArray
    goal: Goal

    @property
    def x_range(self) -> tuple[float, float]:
        """First and last x in view."""
        values = np.concatenate([self.x, self.beyond, self.hidden_x, [self.at, self.planned_end]])
        values = values[np.isfinite(values)]
        return (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)

    @property
    def y_range(self) -> tuple[float, float]:
        """Lowest and highest y worth showing: the best seen, all after the first fifth, the bands unless they dwarf it."""
        late = self.y[self.x >= self.x[0] + 0.2 * (self.x[-1] - self.x[0])] if self.x.size >= 8 else self.y
        best = self.y.min(initial=np.inf) if self.goal == "min" else self.y.max(initial=-np.inf)
        core = np.concatenate([late, [best], self.bands[2], self.hidden_y, [self.value]])
        core = np.clip(core[np.isfinite(core)], -_FAR, _FAR)
        if core.size == 0:
            return (0.0, 1.0)
        if self.status is ForecastStatus.DIVERGED:
            core = core[core <= np.quantile(core, 0.9)]
        low, high = float(core.min()), float(core.max())
        room = 2.0 * (high - low) or 0.1 * abs(high) or 1.0
        edges = self.bands[np.isfinite(self.bands)]
        if edges.size:
            low, high = max(min(low, float(edges.min())), low - room), min(max(high, float(edges.max())), high + room)
        return (low, high) if high > low else (low - 0.5 * room, high + 0.5 * room)


def thin(x: FloatArray, y: FloatArray, most: int) -> tuple[FloatArray, FloatArray]:
    """At most `most` points of a long curve: the lowest and the highest of each stretch, so that the noise stays visible."""
    if x.size <= most:
        return x, y
    edges = np.linspace(0, x.size, max(most // 2, 1) + 1).astype(np.int64)
    keep = []
    for a, b in itertools.pairwise(edges):
        keep += sorted({a + int(np.argmin(y[a:b])), a + int(np.argmax(y[a:b]))})
    return x[keep], y[keep]


def draw_order(forecast: Forecast) -> IntArray:
    """Run indices as they are drawn: forecast runs best first, then finished ones, then refused ones."""
    rank = [0 if s.forecasts else 2 if s.refused else 1 for s in forecast.status]
    order = forecast.order
    return order[np.argsort(np.asarray(rank)[order], kind="stable")]


def panels(forecast: Forecast, index: IntArray, *, most_points: int = 160) -> list[Panel]:
    """The panels of the runs at `index`, with the quantiles of all of them found in one call."""
    curves = forecast.curves
    tail = (1 - forecast.level) / 2
    levels = np.array([tail, 0.5 - INNER / 2, 0.5, 0.5 + INNER / 2, 1 - tail])
    bands = np.full((5, len(index), forecast.path_at.shape[1]), np.nan)
    live = np.flatnonzero([forecast.status[i].forecasts for i in index])
    if live.size and bands.shape[2]:
        bands[:, live] = forecast.path[np.asarray(index)[live]].quantile(levels)
    median, (low, high) = forecast.median, forecast.interval
    planned = curves.column("planned_end").fill_null(np.nan).to_numpy()
    out = []
    for k, i in enumerate(index):
        x, y = thin(curves.x[curves.points(i)], curves.y[curves.points(i)], most_points)
        hidden = forecast.hidden
        span = slice(0, 0) if hidden is None else hidden.points(i)
        came = (x[:0], y[:0]) if hidden is None else thin(hidden.x[span], hidden.y[span], most_points)
        ok = np.isfinite(forecast.path_at[i]) & np.isfinite(bands[2, k])
        out.append(
            Panel(
                index=int(i),
                run=curves.runs[i],
                status=forecast.status[i],
                calibrated=bool(forecast.calibrated[i]),
                x=x,
                y=y,
                beyond=forecast.path_at[i][ok],
                bands=bands[:, k, ok],
                at=float(forecast.at[i]),
                value=float(median[i]),
                low=float(low[i]),
                high=float(high[i]),
                planned_end=float(planned[i]),
                decay_at=_still_to_come(forecast, int(i)),
                hidden_x=came[0],
                hidden_y=came[1],
                goal=curves.metric.goal,
            )
        )
    return out


def _still_to_come(forecast: Forecast, i: int) -> float:
    at = np.nan if forecast.decay_at is None else float(forecast.decay_at[i])
    return at if at > forecast.curves.last_x[i] else np.nan


def log_x(drawn: list[Panel]) -> bool:
    """Whether x is better shown on a log scale: most points crowd near the start of a range of more than a decade."""
    crowded = [p.x[0] > 0 and p.x[-1] > 10 * p.x[0] and np.median(p.x) < 0.2 * p.x[-1] for p in drawn if p.x.size >= 3]
    positive = all(p.x_range[0] > 0 for p in drawn)
    return positive and bool(crowded) and float(np.mean(crowded)) > 0.5


def shared_y(drawn: list[Panel]) -> tuple[float, float] | None:
    """One y range for all panels where that leaves each readable (at most three times the typical range), else None."""
    if not drawn:
        return None
    ranges = np.array([p.y_range for p in drawn])
    low, high = float(ranges[:, 0].min()), float(ranges[:, 1].max())
    return (low, high) if high - low <= 3.0 * float(np.median(ranges[:, 1] - ranges[:, 0])) else None
